// Made by types.mjs of docs/schema. Do not edit.

export type Everything =
  | AcceptedData
  | AcceptedEvent
  | AnsweredData
  | Callback
  | CancelledEvent
  | Chunk
  | ChunkData
  | ChunkEvent
  | CommandAnswer
  | CommandAnswered
  | CommandRefused
  | CompletedEvent
  | DeadLetter
  | DeadReason
  | Document
  | EndpointData
  | EndpointEvent
  | FailedEvent
  | JobEvent
  | JobOfRequest
  | JsonCommand
  | JsonRequest
  | Letter
  | LostEvent
  | OutputLink
  | OutputReference
  | PausedEvent
  | Policy
  | ProgressData
  | ProgressEvent
  | PurgedEvent
  | QueuedEvent
  | Reason
  | RefusedData
  | RejectedData
  | RejectedEvent
  | ResumedEvent
  | RetriedData
  | RetriedEvent
  | S3Config
  | StartedEvent
  | SubmittedEvent
  | TimedOutEvent
  | Transition
  | Unreadable;
/**
 * Why a request ended as it did; a closed list, a label everywhere.
 */
export type Reason =
  | "handler_error"
  | "execution_timeout"
  | "worker_lost"
  | "ttl_expired"
  | "timeout"
  | "queue_timeout"
  | "cancelled"
  | "purged"
  | "unanswered"
  | "vanished"
  | "stuck"
  | "result_expired"
  | "unreadable"
  | "undeliverable"
  | "id_conflict"
  | "rejected";
/**
 * The answer to a command: `type` says whether it was carried out.
 */
export type CommandAnswer = CommandAnswered | CommandRefused;
/**
 * Why a message or an end became a dead letter; a closed list, a label of `bridge_dead_letters_total`.
 */
export type DeadReason = "malformed" | "too_large" | "unknown_kind" | "rejected" | "id_conflict" | "undeliverable";
/**
 * An event of an endpoint: `type` says which.
 */
export type EndpointEvent = PurgedEvent | PausedEvent | ResumedEvent;
/**
 * An event of a request: `type` says which. A later version may send types that are not here: pass over them.
 */
export type JobEvent =
  | AcceptedEvent
  | SubmittedEvent
  | QueuedEvent
  | StartedEvent
  | ProgressEvent
  | ChunkEvent
  | RetriedEvent
  | CompletedEvent
  | FailedEvent
  | CancelledEvent
  | TimedOutEvent
  | LostEvent
  | RejectedEvent;

/**
 * `door`: by which the request came.
 */
export interface AcceptedData {
  accepted_at?: string | null;
  attempt: number;
  correlation_id?: string | null;
  door?: string | null;
  endpoint: string;
  id: string;
  /**
   * of a chunk, from 0
   */
  index?: number | null;
  job_id?: string | null;
  metadata: {
    [k: string]: unknown;
  };
  metrics?: unknown;
  /**
   * of a chunk: its NaN and infinities, which are null in it
   */
  nonfinite?: number | null;
  /**
   * submitted no earlier
   */
  not_before?: string | null;
  output?: unknown;
  /**
   * of a chunk over BRIDGE_INLINE_LIMIT
   */
  output_ref?: OutputReference | null;
  phase: string;
  possible_duplicate: boolean;
  progress?: unknown;
  reason?: Reason | null;
  round: number;
  started_at?: string | null;
  status:
    | (
        | "ACCEPTED"
        | "IN_QUEUE"
        | "IN_PROGRESS"
        | "COMPLETED"
        | "FAILED"
        | "CANCELLED"
        | "TIMED_OUT"
        | "LOST"
        | "REJECTED"
      )
    | string;
  submitted_at?: string | null;
  [k: string]: unknown;
}
/**
 * What travels where a large output does not.
 */
export interface OutputReference {
  /**
   * path of the HTTP door, where it is open: gives it whole
   */
  href?: string | null;
  /**
   * given to those who ask a status for `content`
   */
  link?: OutputLink | null;
  sha256: string;
  /**
   * bytes of the output's JSON text
   */
  size: number;
  /**
   * in the object store; null: the ledger has it
   */
  url?: string | null;
  [k: string]: unknown;
}
/**
 * Where anybody who is told may read an output, and until when.
 */
export interface OutputLink {
  expires_at: string;
  url: string;
  [k: string]: unknown;
}
/**
 * The ledger holds the request.
 */
export interface AcceptedEvent {
  data: AcceptedData;
  datacontenttype: "application/json";
  dataschema: "urn:bridge:schema:job-event:1";
  /**
   * <request id>:<sequence>
   */
  id: string;
  /**
   * 1, 2, 3 ... per request, gapless
   */
  sequence: string;
  /**
   * /bridge/<endpoint>
   */
  source: string;
  specversion: "1.0";
  /**
   * the request id
   */
  subject: string;
  time: string;
  traceparent?: string | null;
  type: "bridge.job.accepted";
  [k: string]: unknown;
}
/**
 * What came of it: the document of a status or retry, `{id, job_id, status, outcome}` of a cancel, and so on.
 */
export interface AnsweredData {
  correlation_id?: string | null;
  id?: string | null;
  op: string;
  result: unknown;
  [k: string]: unknown;
}
/**
 * Whom the bridge tells by HTTPS what becomes of a request; docs/callbacks.md.
 */
export interface Callback {
  /**
   * which are told; default: the end
   */
  events?:
    | (
        | "accepted"
        | "submitted"
        | "queued"
        | "started"
        | "progress"
        | "chunk"
        | "retried"
        | "end"
        | "completed"
        | "failed"
        | "cancelled"
        | "timed_out"
        | "lost"
        | "rejected"
      )[]
    | null;
  /**
   * https, at a host that the bridge may call
   */
  url: string;
}
/**
 * An end: nobody wants it any more.
 */
export interface CancelledEvent {
  data: Document;
  datacontenttype: "application/json";
  dataschema: "urn:bridge:schema:job-event:1";
  /**
   * <request id>:<sequence>
   */
  id: string;
  /**
   * 1, 2, 3 ... per request, gapless
   */
  sequence: string;
  /**
   * /bridge/<endpoint>
   */
  source: string;
  specversion: "1.0";
  /**
   * the request id
   */
  subject: string;
  time: string;
  traceparent?: string | null;
  type: "bridge.job.cancelled";
  [k: string]: unknown;
}
/**
 * A request as `bridge.status`, ends and `--json` tell it: RunPod's names and units (ms), times RFC 3339 UTC.
 */
export interface Document {
  accepted_at?: string | null;
  attempt: number;
  /**
   * RunPod's id of the batch that the job is part of
   */
  batch_id?: string | null;
  /**
   * chunks over BRIDGE_CHUNK_EVENTS_MAX: in the request's own stream alone
   */
  chunks_untold?: number | null;
  completed: boolean;
  correlation_id?: string | null;
  delayTime?: number | null;
  ended_at?: string | null;
  endpoint: string;
  endpoint_id?: string | null;
  error?: unknown;
  executionTime?: number | null;
  /**
   * of a rejected request: the argument at fault
   */
  field?: string | null;
  id: string;
  job_id?: string | null;
  jobs: JobOfRequest[];
  /**
   * `batch`: by RunPod's Batch API
   */
  lane?: string | null;
  /**
   * members of RunPod's answer whose values cannot be: null here, nothing is booked
   */
  left_out?: string[] | null;
  metadata?: {
    [k: string]: unknown;
  };
  /**
   * NaN and infinities of `output` or `progress`: null there, as JSON does not have them
   */
  nonfinite?: number | null;
  /**
   * submitted no earlier
   */
  not_before?: string | null;
  observed_at?: string | null;
  output?: unknown;
  output_ref?: OutputReference | null;
  phase: string;
  policy?:
    | Policy
    | {
        [k: string]: unknown;
      };
  possible_duplicate?: boolean;
  progress?: unknown;
  reason?: Reason | null;
  retries?: number;
  round: number;
  started: boolean;
  started_at?: string | null;
  status:
    | (
        | "ACCEPTED"
        | "IN_QUEUE"
        | "IN_PROGRESS"
        | "COMPLETED"
        | "FAILED"
        | "CANCELLED"
        | "TIMED_OUT"
        | "LOST"
        | "REJECTED"
      )
    | string;
  submitted_at?: string | null;
  succeeded: boolean;
  /**
   * RunPod's answers about the job cannot be read; see reason `unreadable`
   */
  unreadable?: Unreadable | null;
  workerId?: string | null;
  [k: string]: unknown;
}
/**
 * One RunPod job of a request.
 */
export interface JobOfRequest {
  attempt: number;
  endpoint_id: string;
  job_id: string;
  [k: string]: unknown;
}
/**
 * RunPod's execution policy, in RunPod's names and milliseconds.
 */
export interface Policy {
  executionTimeout?: number | null;
  lowPriority?: boolean | null;
  ttl?: number | null;
}
/**
 * Since when, and why, answers about a job cannot be read.
 */
export interface Unreadable {
  error?: string | null;
  since: string;
  [k: string]: unknown;
}
/**
 * An entry of the stream of a request's chunks; the last one has `end` and no `index`.
 */
export interface Chunk {
  chunks?: number | null;
  end?: boolean;
  index?: number | null;
  metrics?: unknown;
  /**
   * NaN and infinities of `output` and `metrics`: null there
   */
  nonfinite?: number | null;
  output?: unknown;
  reason?: string | null;
  repaired?: boolean;
  status?: string | null;
  /**
   * of the end: `possible` when chunks may be missing
   */
  stream_incomplete?: string | null;
  /**
   * of the end: chunks filled in from the aggregate
   */
  stream_repaired?: number | null;
  [k: string]: unknown;
}
/**
 * One yield of a streaming handler: `output`, or `output_ref` in place of a large one.
 */
export interface ChunkData {
  accepted_at?: string | null;
  attempt: number;
  correlation_id?: string | null;
  endpoint: string;
  id: string;
  /**
   * from 0; the same index again, `repaired`, takes its place
   */
  index: number;
  job_id?: string | null;
  metadata: {
    [k: string]: unknown;
  };
  metrics?: unknown;
  /**
   * of a chunk: its NaN and infinities, which are null in it
   */
  nonfinite?: number | null;
  /**
   * submitted no earlier
   */
  not_before?: string | null;
  output?: unknown;
  output_ref?: OutputReference | null;
  phase: string;
  possible_duplicate: boolean;
  progress?: unknown;
  reason?: Reason | null;
  repaired?: boolean;
  round: number;
  started_at?: string | null;
  status:
    | (
        | "ACCEPTED"
        | "IN_QUEUE"
        | "IN_PROGRESS"
        | "COMPLETED"
        | "FAILED"
        | "CANCELLED"
        | "TIMED_OUT"
        | "LOST"
        | "REJECTED"
      )
    | string;
  submitted_at?: string | null;
  [k: string]: unknown;
}
/**
 * A streaming handler has yielded.
 */
export interface ChunkEvent {
  data: ChunkData;
  datacontenttype: "application/json";
  dataschema: "urn:bridge:schema:job-event:1";
  /**
   * <request id>:<sequence>
   */
  id: string;
  /**
   * 1, 2, 3 ... per request, gapless
   */
  sequence: string;
  /**
   * /bridge/<endpoint>
   */
  source: string;
  specversion: "1.0";
  /**
   * the request id
   */
  subject: string;
  time: string;
  traceparent?: string | null;
  type: "bridge.job.chunk";
  [k: string]: unknown;
}
/**
 * It was carried out.
 */
export interface CommandAnswered {
  data: AnsweredData;
  datacontenttype: "application/json";
  dataschema: "urn:bridge:schema:command-answer:1";
  id: string;
  /**
   * /bridge, or /bridge/<endpoint>
   */
  source: string;
  specversion: "1.0";
  /**
   * the request id, where the command named one
   */
  subject?: string | null;
  time: string;
  traceparent?: string | null;
  type: "bridge.command.answered";
  [k: string]: unknown;
}
/**
 * It was not.
 */
export interface CommandRefused {
  data: RefusedData;
  datacontenttype: "application/json";
  dataschema: "urn:bridge:schema:command-answer:1";
  id: string;
  /**
   * /bridge, or /bridge/<endpoint>
   */
  source: string;
  specversion: "1.0";
  /**
   * the request id, where the command named one
   */
  subject?: string | null;
  time: string;
  traceparent?: string | null;
  type: "bridge.command.refused";
  [k: string]: unknown;
}
/**
 * Why it was not carried out.
 */
export interface RefusedData {
  correlation_id?: string | null;
  dead_letter?: string | null;
  error: string;
  /**
   * the argument at fault
   */
  field?: string | null;
  id?: string | null;
  op?: string | null;
  /**
   * rejected, busy, runpod or failed
   */
  reason: string | Reason;
  [k: string]: unknown;
}
/**
 * An end: its output.
 */
export interface CompletedEvent {
  data: Document;
  datacontenttype: "application/json";
  dataschema: "urn:bridge:schema:job-event:1";
  /**
   * <request id>:<sequence>
   */
  id: string;
  /**
   * 1, 2, 3 ... per request, gapless
   */
  sequence: string;
  /**
   * /bridge/<endpoint>
   */
  source: string;
  specversion: "1.0";
  /**
   * the request id
   */
  subject: string;
  time: string;
  traceparent?: string | null;
  type: "bridge.job.completed";
  [k: string]: unknown;
}
/**
 * A dead letter on the stream `bridge:dead` and the queue `bridge.dead`.
 */
export interface DeadLetter {
  data: Letter;
  datacontenttype: "application/json";
  dataschema: "urn:bridge:schema:dead-letter:1";
  id: string;
  source: "/bridge/dead";
  specversion: "1.0";
  time: string;
  type: "bridge.dead.kept";
  [k: string]: unknown;
}
/**
 * What could not be taken or told.
 */
export interface Letter {
  /**
   * what was wrong, in a sentence
   */
  detail: string;
  /**
   * amqp, stream, celery, finish or publish
   */
  door: string;
  /**
   * of `original`
   */
  encoding?: ("utf-8" | "base64") | null;
  headers: {
    [k: string]: unknown;
  };
  /**
   * at most 64 KiB; null with BRIDGE_DEAD_ORIGINALS=off
   */
  original?: string | null;
  reason: DeadReason;
  request_id?: string | null;
  /**
   * of the whole original
   */
  sha256: string;
  /**
   * bytes of the whole original
   */
  size: number;
  /**
   * the queue, stream or task it came by, or was meant for
   */
  source?: string | null;
  time: string;
  truncated: boolean;
  [k: string]: unknown;
}
/**
 * Who has changed what, and by which door.
 */
export interface EndpointData {
  by?: string | null;
  door?: string | null;
  endpoint?: string | null;
  reason?: string | null;
  [k: string]: unknown;
}
/**
 * RunPod's queue of the endpoint was cleared.
 */
export interface PurgedEvent {
  data: EndpointData;
  datacontenttype: "application/json";
  dataschema: "urn:bridge:schema:endpoint-event:1";
  /**
   * <endpoint>:<sequence>
   */
  id: string;
  /**
   * 1, 2, 3 ... per endpoint, gapless
   */
  sequence: string;
  /**
   * /bridge/<endpoint>
   */
  source: string;
  specversion: "1.0";
  /**
   * the endpoint
   */
  subject: string;
  time: string;
  type: "bridge.job.purged";
  [k: string]: unknown;
}
/**
 * No submit leaves for it.
 */
export interface PausedEvent {
  data: EndpointData;
  datacontenttype: "application/json";
  dataschema: "urn:bridge:schema:endpoint-event:1";
  /**
   * <endpoint>:<sequence>
   */
  id: string;
  /**
   * 1, 2, 3 ... per endpoint, gapless
   */
  sequence: string;
  /**
   * /bridge/<endpoint>
   */
  source: string;
  specversion: "1.0";
  /**
   * the endpoint
   */
  subject: string;
  time: string;
  type: "bridge.job.paused";
  [k: string]: unknown;
}
/**
 * Submits leave again.
 */
export interface ResumedEvent {
  data: EndpointData;
  datacontenttype: "application/json";
  dataschema: "urn:bridge:schema:endpoint-event:1";
  /**
   * <endpoint>:<sequence>
   */
  id: string;
  /**
   * 1, 2, 3 ... per endpoint, gapless
   */
  sequence: string;
  /**
   * /bridge/<endpoint>
   */
  source: string;
  specversion: "1.0";
  /**
   * the endpoint
   */
  subject: string;
  time: string;
  type: "bridge.job.resumed";
  [k: string]: unknown;
}
/**
 * An end: its error.
 */
export interface FailedEvent {
  data: Document;
  datacontenttype: "application/json";
  dataschema: "urn:bridge:schema:job-event:1";
  /**
   * <request id>:<sequence>
   */
  id: string;
  /**
   * 1, 2, 3 ... per request, gapless
   */
  sequence: string;
  /**
   * /bridge/<endpoint>
   */
  source: string;
  specversion: "1.0";
  /**
   * the request id
   */
  subject: string;
  time: string;
  traceparent?: string | null;
  type: "bridge.job.failed";
  [k: string]: unknown;
}
/**
 * RunPod has the job: `job_id`.
 */
export interface SubmittedEvent {
  data: Transition;
  datacontenttype: "application/json";
  dataschema: "urn:bridge:schema:job-event:1";
  /**
   * <request id>:<sequence>
   */
  id: string;
  /**
   * 1, 2, 3 ... per request, gapless
   */
  sequence: string;
  /**
   * /bridge/<endpoint>
   */
  source: string;
  specversion: "1.0";
  /**
   * the request id
   */
  subject: string;
  time: string;
  traceparent?: string | null;
  type: "bridge.job.submitted";
  [k: string]: unknown;
}
/**
 * The `data` of an event that is no end; an event adds what it tells: `progress`, `index` and `output`, `by` ...
 */
export interface Transition {
  accepted_at?: string | null;
  attempt: number;
  correlation_id?: string | null;
  endpoint: string;
  id: string;
  /**
   * of a chunk, from 0
   */
  index?: number | null;
  job_id?: string | null;
  metadata: {
    [k: string]: unknown;
  };
  metrics?: unknown;
  /**
   * of a chunk: its NaN and infinities, which are null in it
   */
  nonfinite?: number | null;
  /**
   * submitted no earlier
   */
  not_before?: string | null;
  output?: unknown;
  /**
   * of a chunk over BRIDGE_INLINE_LIMIT
   */
  output_ref?: OutputReference | null;
  phase: string;
  possible_duplicate: boolean;
  progress?: unknown;
  reason?: Reason | null;
  round: number;
  started_at?: string | null;
  status:
    | (
        | "ACCEPTED"
        | "IN_QUEUE"
        | "IN_PROGRESS"
        | "COMPLETED"
        | "FAILED"
        | "CANCELLED"
        | "TIMED_OUT"
        | "LOST"
        | "REJECTED"
      )
    | string;
  submitted_at?: string | null;
  [k: string]: unknown;
}
/**
 * It waits in RunPod's queue.
 */
export interface QueuedEvent {
  data: Transition;
  datacontenttype: "application/json";
  dataschema: "urn:bridge:schema:job-event:1";
  /**
   * <request id>:<sequence>
   */
  id: string;
  /**
   * 1, 2, 3 ... per request, gapless
   */
  sequence: string;
  /**
   * /bridge/<endpoint>
   */
  source: string;
  specversion: "1.0";
  /**
   * the request id
   */
  subject: string;
  time: string;
  traceparent?: string | null;
  type: "bridge.job.queued";
  [k: string]: unknown;
}
/**
 * A RunPod worker has it.
 */
export interface StartedEvent {
  data: Transition;
  datacontenttype: "application/json";
  dataschema: "urn:bridge:schema:job-event:1";
  /**
   * <request id>:<sequence>
   */
  id: string;
  /**
   * 1, 2, 3 ... per request, gapless
   */
  sequence: string;
  /**
   * /bridge/<endpoint>
   */
  source: string;
  specversion: "1.0";
  /**
   * the request id
   */
  subject: string;
  time: string;
  traceparent?: string | null;
  type: "bridge.job.started";
  [k: string]: unknown;
}
/**
 * The handler has told how far it is.
 */
export interface ProgressEvent {
  data: ProgressData;
  datacontenttype: "application/json";
  dataschema: "urn:bridge:schema:job-event:1";
  /**
   * <request id>:<sequence>
   */
  id: string;
  /**
   * 1, 2, 3 ... per request, gapless
   */
  sequence: string;
  /**
   * /bridge/<endpoint>
   */
  source: string;
  specversion: "1.0";
  /**
   * the request id
   */
  subject: string;
  time: string;
  traceparent?: string | null;
  type: "bridge.job.progress";
  [k: string]: unknown;
}
/**
 * What the handler has told.
 */
export interface ProgressData {
  accepted_at?: string | null;
  attempt: number;
  correlation_id?: string | null;
  endpoint: string;
  id: string;
  /**
   * of a chunk, from 0
   */
  index?: number | null;
  job_id?: string | null;
  metadata: {
    [k: string]: unknown;
  };
  metrics?: unknown;
  /**
   * of a chunk: its NaN and infinities, which are null in it
   */
  nonfinite?: number | null;
  /**
   * submitted no earlier
   */
  not_before?: string | null;
  output?: unknown;
  /**
   * of a chunk over BRIDGE_INLINE_LIMIT
   */
  output_ref?: OutputReference | null;
  phase: string;
  possible_duplicate: boolean;
  progress: unknown;
  reason?: Reason | null;
  round: number;
  started_at?: string | null;
  status:
    | (
        | "ACCEPTED"
        | "IN_QUEUE"
        | "IN_PROGRESS"
        | "COMPLETED"
        | "FAILED"
        | "CANCELLED"
        | "TIMED_OUT"
        | "LOST"
        | "REJECTED"
      )
    | string;
  submitted_at?: string | null;
  [k: string]: unknown;
}
/**
 * RunPod runs it again.
 */
export interface RetriedEvent {
  data: RetriedData;
  datacontenttype: "application/json";
  dataschema: "urn:bridge:schema:job-event:1";
  /**
   * <request id>:<sequence>
   */
  id: string;
  /**
   * 1, 2, 3 ... per request, gapless
   */
  sequence: string;
  /**
   * /bridge/<endpoint>
   */
  source: string;
  specversion: "1.0";
  /**
   * the request id
   */
  subject: string;
  time: string;
  traceparent?: string | null;
  type: "bridge.job.retried";
  [k: string]: unknown;
}
/**
 * `by` and `door`: of a retry that was asked for.
 */
export interface RetriedData {
  accepted_at?: string | null;
  attempt: number;
  by?: string | null;
  correlation_id?: string | null;
  door?: string | null;
  endpoint: string;
  id: string;
  /**
   * of a chunk, from 0
   */
  index?: number | null;
  job_id?: string | null;
  metadata: {
    [k: string]: unknown;
  };
  metrics?: unknown;
  /**
   * of a chunk: its NaN and infinities, which are null in it
   */
  nonfinite?: number | null;
  /**
   * submitted no earlier
   */
  not_before?: string | null;
  output?: unknown;
  /**
   * of a chunk over BRIDGE_INLINE_LIMIT
   */
  output_ref?: OutputReference | null;
  phase: string;
  possible_duplicate: boolean;
  progress?: unknown;
  reason?: Reason | null;
  round: number;
  started_at?: string | null;
  status:
    | (
        | "ACCEPTED"
        | "IN_QUEUE"
        | "IN_PROGRESS"
        | "COMPLETED"
        | "FAILED"
        | "CANCELLED"
        | "TIMED_OUT"
        | "LOST"
        | "REJECTED"
      )
    | string;
  submitted_at?: string | null;
  [k: string]: unknown;
}
/**
 * An end: a limit has passed.
 */
export interface TimedOutEvent {
  data: Document;
  datacontenttype: "application/json";
  dataschema: "urn:bridge:schema:job-event:1";
  /**
   * <request id>:<sequence>
   */
  id: string;
  /**
   * 1, 2, 3 ... per request, gapless
   */
  sequence: string;
  /**
   * /bridge/<endpoint>
   */
  source: string;
  specversion: "1.0";
  /**
   * the request id
   */
  subject: string;
  time: string;
  traceparent?: string | null;
  type: "bridge.job.timed_out";
  [k: string]: unknown;
}
/**
 * An end: nobody can tell how it ended.
 */
export interface LostEvent {
  data: Document;
  datacontenttype: "application/json";
  dataschema: "urn:bridge:schema:job-event:1";
  /**
   * <request id>:<sequence>
   */
  id: string;
  /**
   * 1, 2, 3 ... per request, gapless
   */
  sequence: string;
  /**
   * /bridge/<endpoint>
   */
  source: string;
  specversion: "1.0";
  /**
   * the request id
   */
  subject: string;
  time: string;
  traceparent?: string | null;
  type: "bridge.job.lost";
  [k: string]: unknown;
}
/**
 * An end: a rule is broken, or RunPod will not take it.
 */
export interface RejectedEvent {
  data: RejectedData;
  datacontenttype: "application/json";
  dataschema: "urn:bridge:schema:job-event:1";
  /**
   * <request id>:<sequence>
   */
  id: string;
  /**
   * 1, 2, 3 ... per request, gapless
   */
  sequence: string;
  /**
   * /bridge/<endpoint>
   */
  source: string;
  specversion: "1.0";
  /**
   * the request id
   */
  subject: string;
  time: string;
  traceparent?: string | null;
  type: "bridge.job.rejected";
  [k: string]: unknown;
}
/**
 * The document of a refused request; `dead_letter` where no record was made of it.
 */
export interface RejectedData {
  accepted_at?: string | null;
  attempt: number;
  /**
   * RunPod's id of the batch that the job is part of
   */
  batch_id?: string | null;
  /**
   * chunks over BRIDGE_CHUNK_EVENTS_MAX: in the request's own stream alone
   */
  chunks_untold?: number | null;
  completed: boolean;
  correlation_id?: string | null;
  dead_letter?: string | null;
  delayTime?: number | null;
  door?: string | null;
  ended_at?: string | null;
  endpoint: string;
  endpoint_id?: string | null;
  error?: unknown;
  executionTime?: number | null;
  /**
   * of a rejected request: the argument at fault
   */
  field?: string | null;
  id: string;
  job_id?: string | null;
  jobs: JobOfRequest[];
  /**
   * `batch`: by RunPod's Batch API
   */
  lane?: string | null;
  /**
   * members of RunPod's answer whose values cannot be: null here, nothing is booked
   */
  left_out?: string[] | null;
  metadata?: {
    [k: string]: unknown;
  };
  /**
   * NaN and infinities of `output` or `progress`: null there, as JSON does not have them
   */
  nonfinite?: number | null;
  /**
   * submitted no earlier
   */
  not_before?: string | null;
  observed_at?: string | null;
  output?: unknown;
  output_ref?: OutputReference | null;
  phase: string;
  policy?:
    | Policy
    | {
        [k: string]: unknown;
      };
  possible_duplicate?: boolean;
  progress?: unknown;
  reason?: Reason | null;
  retries?: number;
  round: number;
  started: boolean;
  started_at?: string | null;
  status:
    | (
        | "ACCEPTED"
        | "IN_QUEUE"
        | "IN_PROGRESS"
        | "COMPLETED"
        | "FAILED"
        | "CANCELLED"
        | "TIMED_OUT"
        | "LOST"
        | "REJECTED"
      )
    | string;
  submitted_at?: string | null;
  succeeded: boolean;
  /**
   * RunPod's answers about the job cannot be read; see reason `unreadable`
   */
  unreadable?: Unreadable | null;
  workerId?: string | null;
  [k: string]: unknown;
}
/**
 * A command as a service sends it: `op`, and that task's arguments.
 */
export interface JsonCommand {
  by?: string | null;
  /**
   * status: a large output itself, not its reference
   */
  content?: boolean;
  correlation_id?: string | null;
  endpoint?: string | null;
  /**
   * cancel: every member of a Celery group
   */
  group?: string | null;
  id?: string | null;
  job_id?: string | null;
  op: "cancel" | "status" | "stream" | "retry" | "health" | "purge" | "pause" | "resume";
  pending?: boolean;
  reason?: string | null;
  refresh?: boolean;
  reply_to?: string | null;
  /**
   * cancel: requests of this metadata
   */
  where?: {
    [k: string]: string | number;
  } | null;
  [k: string]: unknown;
}
/**
 * A request as a service sends it: `bridge.run`'s arguments beside these.
 */
export interface JsonRequest {
  callback?: Callback | null;
  correlation_id?: string | null;
  delivery?: ("at_least_once" | "at_most_once") | null;
  endpoint?: string | null;
  id?: string | null;
  input: {
    [k: string]: unknown;
  };
  lane?: "batch" | null;
  metadata?: {
    [k: string]: string | number | boolean | null;
  };
  not_before?: number | string | null;
  policy?: Policy1;
  priority?: number;
  queue_timeout?: number | null;
  reply_on?: ("accepted" | "submitted" | "started" | "progress" | "chunk" | "end")[] | null;
  reply_to?: string | null;
  result?: "output" | "document";
  retries?: number;
  retry_on?: string[] | null;
  s3Config?: S3Config | string | null;
  stream?: boolean;
  sync?: boolean | number;
  timeout?: number | null;
}
/**
 * RunPod's execution policy, in RunPod's names and milliseconds.
 */
export interface Policy1 {
  executionTimeout?: number | null;
  lowPriority?: boolean | null;
  ttl?: number | null;
}
/**
 * Handed to the RunPod worker as it is; RunPod itself uploads nothing.
 */
export interface S3Config {
  accessId: string;
  accessSecret: string;
  bucketName: string;
  endpointUrl: string;
}
