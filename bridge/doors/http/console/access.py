"""The way in: who asks, whether the form is ours, what a browser may do with the page, and how long an answer takes."""

from __future__ import annotations

import hmac
import ipaddress
import math
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import parse_qsl, quote

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from bridge.doors.http.console.render import Pages
from bridge.doors.http.console.session import NAME_MAX, SESSION_S, Password, Sessions, Tries, Visitor
from bridge.doors.http.host import is_loopback_host
from bridge.doors.http.threads import Threads
from bridge.engine.control import Asker
from bridge.errors import ApiError, BridgeError, JobRejected, LedgerError, LedgerUnavailable
from bridge.telemetry import tell

if TYPE_CHECKING:
    from bridge.ledger.console_sessions import EndedSessions

T = TypeVar("T")
THREADS, CALLERS = 8, 2
#: Seconds after which a ledger that is silent is away; RunPod has somewhat longer.
LEDGER_S, RUNPOD_S = 8.0, 18.0
#: Bytes of a form.
FORM_MAX = 64 * 1024
COOKIE, SAID = "bridge_console", "bridge_console_said"
DOOR = "console"
#: A page may load what is ours, and nothing else; nobody may put it into a frame.
HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Refusal(Exception):
    """A page that says why not."""

    def __init__(self, code: int, title: str, says: str) -> None:
        """In words for whoever sits before it."""
        super().__init__(says)
        self.code, self.title, self.says = code, title, says


@dataclass(frozen=True, slots=True)
class Doorkeeper:
    """Who may come in. Without a header and a password: everybody, on loopback alone (the settings see to it)."""

    header: str
    proxies: Collection[Network]
    password: Password | None

    @property
    def open(self) -> bool:
        """Whether nobody is asked who he is."""
        return not self.header and self.password is None


Handle = Callable[[Request, Visitor], Awaitable[Response]]


class Entrance:
    """One per address. Every route of the console is made by it."""

    def __init__(
        self, keeper: Doorkeeper, sessions: Sessions, ended: EndedSessions, pages: Pages, *, read_only: bool
    ) -> None:
        """`read_only`: nothing can be changed, whoever asks."""
        self._keeper, self._sessions, self._pages = keeper, sessions, pages
        self._ended = ended
        self.read_only = read_only
        self._tries = Tries()
        self._ask_ledger, self._ask_runpod = Threads(THREADS), Threads(CALLERS)

    # Routes

    @property
    def routes(self) -> list[Route]:
        """Login and logout."""
        return [
            Route("/login", self._bare(self._login), methods=["GET", "POST"]),
            Route("/logout", self._bare(self._logout), methods=["POST"]),
        ]

    def page(self, path: str, handle: Handle) -> Route:
        """What may be looked at."""
        return Route(path, self._bare(lambda request: self._let_in(request, handle)), methods=["GET"])

    def action(self, path: str, question: Handle, handle: Handle) -> Route:
        """What is asked about first (GET), and then done (POST)."""

        async def called(request: Request) -> Response:
            if self.read_only:
                raise Refusal(403, "Read only", "This console changes nothing (BRIDGE_CONSOLE_READ_ONLY).")
            return await self._let_in(request, question if request.method in {"GET", "HEAD"} else handle)

        return Route(path, self._bare(called), methods=["GET", "POST"])

    def _bare(self, handle: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def called(request: Request) -> Response:
            try:
                response = await handle(request)
            except Exception as error:  # noqa: BLE001  (an edge fails alone: this answer)
                response = self.sorry(request, _refusal(error))
            for name, value in HEADERS.items():
                response.headers.setdefault(name, value)
            return response

        return called

    async def _let_in(self, request: Request, handle: Handle) -> Response:
        await self.asked(self._sessions.ready)
        visitor = await self._still_in(request)
        if visitor is None:
            if request.headers.get("x-console-part"):
                return Response(status_code=401)  # a page that is looked at again by its script: it asks for login
            there = request.url.path + (f"?{request.url.query}" if request.url.query else "")
            there = there if request.method == "GET" else "/console/"
            return RedirectResponse(f"/console/login?to={quote(there, safe='')}", 303)
        return await handle(request, visitor)

    def sorry(self, request: Request, refusal: Refusal) -> Response:
        """Why not, as a page."""
        told = {"title": refusal.title, "says": refusal.says, "code": refusal.code}
        response = self._pages.page(request, "refused.html", None, told)
        response.status_code = refusal.code
        return response

    # Who

    def _who(self, request: Request) -> Visitor | None:
        """None: he has to log in. Raises Refusal."""
        keeper, address = self._keeper, request.client.host if request.client else ""
        if keeper.open:
            if not is_loopback_host(request.headers.get("host", "")):
                raise Refusal(
                    403,
                    "Ask by a loopback name",
                    "Without a password the console answers as 127.0.0.1 or localhost alone: a page of the web could "
                    "reach it by a name of its own. BRIDGE_CONSOLE_PASSWORD_FILE sets one.",
                )
            return Visitor("", address)
        if keeper.header and _among(address, keeper.proxies):
            name = _clean(request.headers.get(keeper.header, ""))
            if name:
                return Visitor(name, address)
        if keeper.password is None:
            raise Refusal(
                403,
                "Nobody is named",
                f"The header {keeper.header} has to come from a proxy of BRIDGE_CONSOLE_PROXIES, and name somebody.",
            )
        found = self._sessions.who(request.cookies.get(COOKIE, ""))
        return Visitor(found[0], address, logged_in=True, session=found[1]) if found is not None else None

    async def _still_in(self, request: Request) -> Visitor | None:
        """The same, unless he has logged out, at whichever process."""
        visitor = self._who(request)
        if visitor is None or not visitor.session:
            return visitor
        session = visitor.session
        return None if await self.asked(lambda: self._ended.ended(session)) else visitor

    def asker(self, visitor: Visitor, said: str = "") -> Asker:
        """Who stands in the event; where nobody is asked who he is, whom the form names."""
        return Asker(by=visitor.name or _clean(said) or None, door=DOOR)

    def form_token(self, visitor: Visitor) -> str:
        """For the forms of this visitor."""
        return self._sessions.form(visitor.signs)

    async def form(self, request: Request, visitor_name: str) -> dict[str, str]:
        """The fields of a form that one of our pages has sent. Raises Refusal for any other."""
        host = request.headers.get("host", "")
        origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site")
        strange = origin is not None and origin not in {f"http://{host}", f"https://{host}"}
        if strange or site not in {None, "same-origin", "none"}:
            tell("console.denied", why="origin")
            raise Refusal(403, "Not from this page", "The form was sent by a page from elsewhere; nothing was done.")
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > FORM_MAX:
                raise Refusal(413, "Too large", f"A form has at most {FORM_MAX} bytes.")
        fields = dict(parse_qsl(body.decode(errors="replace"), keep_blank_values=True, max_num_fields=100))
        if not self._sessions.is_form(visitor_name, fields.get("form", "")):
            tell("console.denied", why="form")
            raise Refusal(403, "The form is out of date", "Nothing was done. Go back, look again, and send it again.")
        return fields

    # Login

    async def _login(self, request: Request) -> Response:
        await self.asked(self._sessions.ready)
        to = request.query_params.get("to", "")
        if self._keeper.password is None:
            return RedirectResponse("/console/", 303)
        if request.method in {"GET", "HEAD"}:
            return self._login_page(request, "")
        address = self._client(request)
        fields = await self.form(request, "login")
        if wait := self._tries.wait_s(address):
            response = self._login_page(request, f"Too many tries. Try again in {math.ceil(wait)} s.")
            response.status_code = 429
            response.headers["retry-after"] = str(math.ceil(wait))
            return response
        if not _same(fields.get("password", ""), self._keeper.password):
            self._tries.failed(address)
            tell("console.denied", why="password")
            response = self._login_page(request, "That is not the password.")
            response.status_code = 403
            return response
        there = to if to.startswith("/console/") and not to.startswith("/console/log") else "/console/"
        response = RedirectResponse(there, 303)
        response.set_cookie(
            COOKIE, self._sessions.opened(_clean(fields.get("name", ""))), max_age=SESSION_S, path="/console",
            httponly=True, samesite="strict", secure=self._secure(request),
        )  # fmt: skip
        return response

    def _login_page(self, request: Request, says: str) -> Response:
        told = {"says": says, "form": self._sessions.form("login"), "to": request.query_params.get("to", "")}
        return self._pages.page(request, "login.html", None, told)

    async def _logout(self, request: Request) -> Response:
        await self.asked(self._sessions.ready)
        visitor = await self._still_in(request)
        if visitor is not None:
            await self.form(request, visitor.signs)
            if session := visitor.session:
                await self.asked(lambda: self._ended.end(session, SESSION_S))
        response = RedirectResponse("/console/login", 303)
        response.delete_cookie(COOKIE, path="/console", httponly=True, samesite="strict")
        return response

    def _client(self, request: Request) -> str:
        """The browser's address: where a trusted proxy sends it, the last in X-Forwarded-For that is none."""
        address = request.client.host if request.client else ""
        hops = ",".join(request.headers.getlist("x-forwarded-for")).split(",")
        for hop in reversed(hops):
            if not hop.strip() or not _among(address, self._keeper.proxies):
                break
            address = hop.strip()[:NAME_MAX]
        return address

    def _secure(self, request: Request) -> bool:
        """Whether the browser came by TLS, as far as who is trusted says so."""
        address = request.client.host if request.client else ""
        forwarded = request.headers.get("x-forwarded-proto") if _among(address, self._keeper.proxies) else None
        return "https" in {request.url.scheme, forwarded}

    # What

    async def asked(self, call: Callable[[], T], *, runpod: bool = False) -> T:
        """The answer of the ledger (or of RunPod), from a thread. Raises Refusal when it takes too long."""
        try:
            return await (self._ask_runpod(call, RUNPOD_S) if runpod else self._ask_ledger(call, LEDGER_S))
        except TimeoutError:
            if runpod:
                raise Refusal(504, "RunPod does not answer", "It may still do what was asked.") from None
            raise Refusal(503, "The ledger does not answer", "This page looks again by itself.") from None


def _refusal(error: Exception) -> Refusal:
    """The first that fits."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, JobRejected):
        return Refusal(404 if error.document.get("unknown") else 409, "Not done", error.message)
    for kind, code, title in _SORRY:
        if isinstance(error, kind):
            return Refusal(code, title, str(error))
    tell("console.failed", error=f"{type(error).__name__}: {error}")
    return Refusal(500, "An error that nobody foresaw", "It stands in the log; this page alone has failed.")


_SORRY: tuple[tuple[type[Exception], int, str], ...] = (
    (LedgerUnavailable, 503, "The ledger does not answer"),
    (LedgerError, 500, "The ledger cannot be read"),
    (ApiError, 502, "RunPod has not done it"),
    (BridgeError, 409, "Not done"),
)


def _same(said: str, password: Password) -> bool:
    return hmac.compare_digest(said.encode(errors="replace"), password.value())


def _clean(name: str) -> str:
    return "".join(char for char in name.strip() if char.isprintable())[:NAME_MAX]


def _among(address: str, networks: Collection[Network]) -> bool:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped:
        found = found.ipv4_mapped
    return any(found in network for network in networks)
