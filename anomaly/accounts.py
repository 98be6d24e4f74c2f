"""Who may do what: three roles, each of which may do what those before it may; and how a person proves a name."""

from __future__ import annotations

import getpass
import hashlib
import hmac
import json
import math
import secrets
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from weakref import WeakValueDictionary

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from anomaly.errors import AccountsError, Forbidden, NotSignedIn, TooManyTries, UnknownName, UsageError
from anomaly.files import write_whole

VISITOR, OPERATOR, SUPERVISOR = ROLES = ("visitor", "operator", "supervisor")

SHORTEST = 8  # characters of a password
FREE_TRIES = 5  # wrong passwords for one name before the next one has to wait
LONGEST_WAIT = 60.0  # seconds: a guesser gets about 1,400 tries a day, and nobody is locked out for good
REMEMBERED = 4096  # names whose wrong passwords are counted, and tickets that are valid; the oldest go first
SHIFT = 12 * 3600.0  # seconds that a ticket is good for
ADD = "Add an account with `python -m anomaly passwd NAME --role ROLE --auth-file FILE`"


@dataclass(frozen=True)
class Person:
    """Somebody at the page or the API."""

    name: str = VISITOR
    role: str = VISITOR

    def may(self, role: str) -> bool:
        """Is this person's role `role` or one above it?"""
        return ROLES.index(self.role) >= ROLES.index(role)

    def require(self, role: str, doing: str) -> None:
        """Raise Forbidden, unless this person may do what `role` may; `doing` says what, as in "save a limit"."""
        if not self.may(role):
            raise Forbidden(f"Only a person with the role of {role} may {doing}", f"Sign in as {role}")


class Account(BaseModel):
    """A name's role and salted password hash: scrypt (RFC 7914), by default at the least cost that OWASP advises."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Literal["visitor", "operator", "supervisor"]
    salt: str = Field(pattern="^[0-9a-f]{32}$")
    scrypt: str = Field(pattern="^[0-9a-f]{64}$")
    n: int = Field(default=2**14, gt=1)  # with r = 8: 16 MB
    r: int = Field(default=8, gt=0)
    p: int = Field(default=5, gt=0)  # a quarter of a second

    @classmethod
    def create(cls, role: str, password: str) -> Account:
        blank = cls(role=role, salt=secrets.token_hex(16), scrypt="0" * 64)
        return blank.model_copy(update={"scrypt": blank.digest(password)})

    def digest(self, password: str) -> str:
        salt = bytes.fromhex(self.salt)
        room = 128 * self.r * (self.n + self.p + 2)  # bytes that it takes; OpenSSL's own bound is 32 MB
        return hashlib.scrypt(password.encode(), salt=salt, n=self.n, r=self.r, p=self.p, maxmem=room, dklen=32).hex()


class Accounts(BaseModel):
    """The content of an account file."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    version: Literal[1] = Field(default=1, alias="schema")
    accounts: dict[str, Account] = {}

    @classmethod
    def load(cls, path: Path) -> Accounts:
        """Raises AccountsError when the file is missing, damaged or of another schema."""
        try:
            return cls.model_validate_json(Path(path).read_bytes())
        except OSError as error:
            raise AccountsError(f"The account file {path} cannot be read ({error.strerror})", ADD) from error
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "its JSON"
            problem = f"The account file {path} cannot be used, {place}: {first['msg'][:1].lower()}{first['msg'][1:]}"
            raise AccountsError(problem, "Restore it from a backup, or delete it and add the accounts again") from error

    def save(self, path: Path) -> None:
        """Write the file whole or not at all, readable by its owner alone. Raises AccountsError."""
        content = json.dumps(self.model_dump(by_alias=True), indent=1, ensure_ascii=False) + "\n"
        try:
            write_whole(path, content.encode(), mode=0o600)
        except OSError as error:
            problem = f"The account file {path} cannot be written ({error.strerror})"
            raise AccountsError(problem, "Check that its folder is there and may be written to") from error


def user() -> str:
    """Who is logged in on this machine."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under an id without a name
        return "unknown"


def set_password(path: Path, name: str, *, role: str, password: str) -> None:
    """Add an account to a file, which is made if it is missing, or give an existing one a new role and password.

    Raises:
        UnknownName: no such role; UsageError: a name or password that cannot be used; AccountsError.
    """
    if role not in ROLES:
        raise UnknownName(f"There is no role {role!r}", f"Use one of {', '.join(ROLES)}")
    if not (0 < len(name) <= 64 and name.isprintable() and name == name.strip() and ":" not in name):
        raise UsageError(f"{name!r} cannot be a name", "Use at most 64 printable characters, none of them a colon")
    if len(password) < SHORTEST:
        raise UsageError(f"The password has {len(password)} characters", f"Use at least {SHORTEST}")
    book = Accounts.load(path) if Path(path).exists() else Accounts()
    book.accounts[name] = Account.create(role, password)
    book.save(path)


@dataclass
class _Ticket:
    name: str
    role: str
    account: Account | None  # as it was when the person signed in; None for the holder of the token
    until: float
    sessions: WeakValueDictionary = field(default_factory=WeakValueDictionary)


class Desk:
    """Where people sign in: checks passwords, slows guessing, gives out tickets. Safe to share between threads.

    Tickets are kept in memory alone: after a restart everybody is a visitor again.

    Args:
        file: of the accounts, read anew at each check, so that `passwd` needs no restart; None: there are none.
        guests: password by name of those who may see the page at all, as visitors; empty: everybody may.
        token: who shows it is a supervisor; None: nobody can.
    """

    def __init__(self, *, file: Path | None = None, guests: dict[str, str] | None = None, token: str | None = None):
        self.file = file
        self.guests = dict(guests or {})
        self.token = token
        self._failures: OrderedDict[tuple[str, str], tuple[int, float]] = OrderedDict()
        self._proven: dict[str, tuple[Account, bytes]] = {}
        self._tickets: OrderedDict[str, _Ticket] = OrderedDict()
        self._key = secrets.token_bytes(32)
        self._nobody = Account.create(VISITOR, secrets.token_hex(16)) if file else None
        self._guessing, self._giving = threading.Lock(), threading.Lock()

    def check(self, name: str, password: str, *, source: str = "") -> Person:
        """Who this is.

        Args:
            source: network address; wrong passwords from one do not lock out a person at another.
        Raises:
            NotSignedIn: the name or the password is wrong; TooManyTries: after several, for up to a minute;
            AccountsError: the account file cannot be read.
        """
        return self._checked(name, password, source)[0]

    def _checked(self, name: str, password: str, source: str) -> tuple[Person, Account | None]:
        with self._guessing:  # one at a time: many guesses at once must not slip past the counter
            tries, until = self._failures.get((name, source), (0, 0.0))
            wait = until - time.monotonic()
            if wait > 0:
                remedy = f"Wait {math.ceil(wait)} seconds, then try again"
                raise TooManyTries("Too many wrong passwords were given for this name", remedy)
            try:
                proven = self._prove(name, password)
            except NotSignedIn:
                tries += 1
                wait = min(2.0 ** (tries - FREE_TRIES), LONGEST_WAIT) if tries >= FREE_TRIES else 0.0
                self._failures[name, source] = (tries, time.monotonic() + wait)
                self._failures.move_to_end((name, source))
                while len(self._failures) > REMEMBERED:
                    self._failures.popitem(last=False)
                raise
            self._failures.pop((name, source), None)
            return proven

    def _prove(self, name: str, password: str) -> tuple[Person, Account | None]:
        wrong = NotSignedIn("The name or the password is wrong", "Try again, or ask a supervisor for an account")
        if name in self.guests and hmac.compare_digest(self.guests[name].encode(), password.encode()):
            return Person(name), None
        if self.file is None:
            raise wrong
        account = Accounts.load(self.file).accounts.get(name)
        # A machine sends its password with each photo: once proven, a keyed digest in memory is enough.
        seal = hmac.digest(self._key, password.encode(), "sha256")
        known, proof = self._proven.get(name, (None, b""))
        if account is None or known != account or not hmac.compare_digest(proof, seal):
            # An unknown name takes as long as a known one, so that time does not tell which names there are.
            asked = account or self._nobody
            if not hmac.compare_digest(asked.digest(password), asked.scrypt) or account is None:
                raise wrong
            self._proven[name] = (account, seal)
        return Person(name, account.role), account

    def sign_in(self, name: str, password: str, *, source: str = "") -> str:
        """A ticket for somebody with the right password; raises as `check` does."""
        person, account = self._checked(name, password, source)
        if account is None:
            raise NotSignedIn("This name opens the page and has no role", ADD)
        return self._ticket(person, account)

    def show(self, token: str) -> str | None:
        """A supervisor's ticket for whoever shows the token; None if it is wrong."""
        if self.token is None or not hmac.compare_digest(self.token.encode(), token.encode()):
            return None
        return self._ticket(Person(SUPERVISOR, SUPERVISOR), None)

    def _ticket(self, person: Person, account: Account | None) -> str:
        number = secrets.token_urlsafe(32)
        with self._giving:
            self._tickets[number] = _Ticket(person.name, person.role, account, time.monotonic() + SHIFT)
            while len(self._tickets) > REMEMBERED:
                self._tickets.popitem(last=False)
        return number

    def person(self, number: str | None) -> Person:
        """Whose ticket this is; a visitor if it is none, has run out, or the account has changed since."""
        ticket = self._tickets.get(number or "")
        if ticket is None or ticket.until < time.monotonic():
            return Person()
        if ticket.account is not None:
            try:
                if Accounts.load(self.file).accounts.get(ticket.name) != ticket.account:
                    return Person()
            except AccountsError:
                return Person()
        return Person(ticket.name, ticket.role)

    def seat(self, number: str | None, session: Any) -> Person:
        """Put whoever holds the ticket into `session.person`, until the ticket is given back."""
        with self._giving:  # or a person who signs out just now would stay in this session
            session.person = self.person(number)
            ticket = self._tickets.get(number or "")
            if ticket is not None:
                ticket.sessions[id(session)] = session
        return session.person

    def sign_out(self, number: str | None) -> None:
        """Make the ticket worthless, and a visitor of the person in every session where it was shown."""
        with self._giving:
            ticket = self._tickets.pop(number or "", None)
        for session in list(ticket.sessions.values()) if ticket else ():
            session.person = Person()
