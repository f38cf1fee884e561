#!/bin/sh
# A service with nothing but redis-cli: submits a job, follows it, takes chunks and result, cancels another.
#
#     REDIS_URL=redis://127.0.0.1:6379/0 sh client.sh        (the database of BRIDGE_REDIS_URL)
set -eu

# What a RunPod handler is given. These words are the emulator's (docs/emulator.md); put your own input here.
INPUT=${INPUT:-'{"mock_stream": ["once", "upon", "a time"], "mock_return": "the end"}'}
LONG_INPUT=${LONG_INPUT:-'{"mock_delay": 600}'}

cli() { redis-cli -u "$REDIS_URL" "$@"; }

# The documents of one request, a line each, from an entry of a stream on until its end. A document is one line of JSON.
# One whose sequence is not above the last is a copy.
follow() {
    stream=$1 id=$2 cursor=$3 last=
    # The refusal of an id that is none names no request; a stream of replies is of this program alone.
    refused='"type":"bridge.job.rejected"'
    [ "$stream" != bridge:events ] || refused="\"subject\":\"$id\""
    while :; do
        page=$(cli XREAD COUNT 100 BLOCK 60000 STREAMS "$stream" "$cursor")
        [ -n "$page" ] || { echo "nothing was heard of $id for 60 s" >&2; exit 1; }
        # An entry is printed as its id, then names and values, a line each.
        cursor=$(printf '%s\n' "$page" | grep -E '^[0-9]+-[0-9]+$' | tail -n 1)
        printf '%s\n' "$page" | awk 'before == "data"; { before = $0 }' |
            grep -F -e "\"subject\":\"$id\"" -e "$refused" >"$page_file" || :
        while IFS= read -r event; do
            sequence=$(printf '%s' "$event" | sed 's/.*"sequence":"\([0-9]*\)".*/\1/')
            expr "x$sequence" '>' "x$last" >/dev/null || continue
            last=$sequence
            printf '%s\n' "$event"
            case $event in *'"type":"bridge.job.rejected"'*) echo "$id was refused" >&2; exit 1 ;; esac
            case $event in *'"completed":true'*) return ;; esac
        done <"$page_file"
    done
}

page_file=$(mktemp)
trap 'rm -f "$page_file"' EXIT
me="shell-$$-$(date +%s)"
now=$(cli XREVRANGE bridge:events + - COUNT 1 | head -n 1)

# The id is yours: the same id with the same content is never run twice, however often it is sent.
cli XADD bridge:requests '*' data \
    "{\"id\": \"story-$me\", \"input\": $INPUT, \"stream\": true, \"reply_to\": \"$me\", \"correlation_id\": \"order 66\"}" >/dev/null
echo "== replies"
follow "bridge:reply:$me" "story-$me" 0-0
echo "== events"
follow bridge:events "story-$me" "${now:-0-0}"

# A job that is not wanted any more, on its GPU or still waiting.
cli XADD bridge:requests '*' data "{\"id\": \"long-$me\", \"input\": $LONG_INPUT, \"reply_to\": \"$me\"}" >/dev/null
cli XADD bridge:commands '*' data "{\"op\": \"cancel\", \"id\": \"long-$me\", \"by\": \"redis-cli\"}" >/dev/null
echo "== cancelled"
follow "bridge:reply:$me" "long-$me" 0-0
