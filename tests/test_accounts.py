"""Roles, passwords and tickets: who may do what, how a name is proven, how guessing is slowed."""

import io
import json
import os
import stat
import threading
import time

import pytest

from anomaly import accounts, cli
from anomaly.accounts import OPERATOR, ROLES, SUPERVISOR, VISITOR, Account, Accounts, Desk, Person, set_password
from anomaly.errors import AccountsError, Forbidden, NotSignedIn, TooManyTries, UnknownName, UsageError
from anomaly.handlers.session import Session

PASSWORD = "correct horse"


@pytest.fixture
def file(tmp_path, monkeypatch):
    """An account file with anna, an operator; scrypt at its least cost, so that the tests are quick."""
    create = Account.create

    def cheap(role, password):
        blank = Account(role=role, salt="00" * 16, scrypt="0" * 64, n=2, r=1, p=1)
        return blank.model_copy(update={"scrypt": blank.digest(password)})

    monkeypatch.setattr(Account, "create", cheap)
    path = tmp_path / "people.json"
    set_password(path, "anna", role=OPERATOR, password=PASSWORD)
    yield path
    monkeypatch.setattr(Account, "create", create)


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 1000.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(accounts, "time", clock)
    return clock


def test_each_role_may_do_what_those_before_it_may():
    table = {one: [Person("x", one).may(other) for other in ROLES] for one in ROLES}
    assert table == {
        VISITOR: [True, False, False],
        OPERATOR: [True, True, False],
        SUPERVISOR: [True, True, True],
    }
    with pytest.raises(Forbidden, match="Only a person with the role of supervisor may save a limit. Sign in"):
        Person("anna", OPERATOR).require(SUPERVISOR, "save a limit")


def test_everybody_begins_as_a_visitor():
    assert Session().person == Person("visitor", VISITOR)


def test_a_password_is_kept_as_salted_scrypt_that_only_the_owner_can_read(tmp_path):
    path = tmp_path / "people.json"
    for name in ("anna", "otto"):
        set_password(path, name, role=OPERATOR, password=PASSWORD)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert PASSWORD not in path.read_text()
    anna, otto = json.loads(path.read_text())["accounts"].values()
    assert anna["salt"] != otto["salt"] and anna["scrypt"] != otto["scrypt"]
    assert (anna["n"], anna["r"], anna["p"]) == (16384, 8, 5)  # OWASP's password storage cheat sheet, least cost
    began = time.process_time()
    assert Desk(file=path).check("anna", PASSWORD) == Person("anna", OPERATOR)
    assert time.process_time() - began > 0.05
    assert list(tmp_path.iterdir()) == [path]


def test_the_digest_is_scrypt_as_rfc_7914_has_it():
    """Its test vector of N = 1024, r = 8, p = 16, cut to 32 bytes; salts of ours are hex of 16 bytes, "NaCl" is not."""
    account = Account.model_construct(role=VISITOR, salt=b"NaCl".hex(), scrypt="", n=1024, r=8, p=16)
    assert account.digest("password") == "fdbabe1c9d3472007856e7190d01e9fe7c6ad7cbc8237830e77376634b373162"


@pytest.mark.parametrize("name, password", [("anna", "wrong"), ("nobody", PASSWORD), ("anna", ""), ("", "")])
def test_a_wrong_name_and_a_wrong_password_sound_alike(file, name, password):
    with pytest.raises(NotSignedIn, match="The name or the password is wrong"):
        Desk(file=file).check(name, password)


def test_a_changed_account_counts_without_a_restart(file):
    desk = Desk(file=file)
    desk.check("anna", PASSWORD)
    set_password(file, "anna", role=SUPERVISOR, password="another one")
    with pytest.raises(NotSignedIn):
        desk.check("anna", PASSWORD)
    assert desk.check("anna", "another one") == Person("anna", SUPERVISOR)


def test_a_proven_password_is_not_hashed_again(file, monkeypatch):
    """A machine on the line sends it with each photo."""
    desk, digest, hashed = Desk(file=file), Account.digest, []
    monkeypatch.setattr(Account, "digest", lambda self, password: hashed.append(password) or digest(self, password))
    for _ in range(3):
        desk.check("anna", PASSWORD)
    with pytest.raises(NotSignedIn):
        desk.check("anna", "wrong")
    assert hashed == [PASSWORD, "wrong"]


def test_guessing_is_slowed_more_and_more(file, clock):
    desk, waits = Desk(file=file), []
    for _ in range(13):
        with pytest.raises(NotSignedIn):
            desk.check("anna", "wrong")
        before = clock.now
        while True:
            try:
                desk.check("anna", "wrong again")
            except TooManyTries as error:
                assert "Wait" in str(error)
                clock.now += 0.5
            except NotSignedIn:
                break
        waits.append(clock.now - before)
        desk._failures["anna", ""] = (desk._failures["anna", ""][0] - 1, 0.0)  # the try of this loop does not count
    assert waits == [0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_not_even_the_right_password_passes_while_it_has_to_wait(file, clock):
    desk = Desk(file=file)
    desk.check("anna", PASSWORD)
    for _ in range(accounts.FREE_TRIES):
        with pytest.raises(NotSignedIn):
            desk.check("anna", "wrong", source="10.0.0.66")
    with pytest.raises(TooManyTries):
        desk.check("anna", PASSWORD, source="10.0.0.66")
    assert desk.check("anna", PASSWORD, source="10.0.0.7").name == "anna"  # the guesser locks out nobody else
    clock.now += 2
    assert desk.check("anna", PASSWORD, source="10.0.0.66").name == "anna"


def test_guesses_at_the_same_time_are_counted_one_by_one(file):
    desk, got = Desk(file=file), []

    def guess():
        try:
            desk.check("anna", "wrong")
        except Forbidden as error:
            got.append(type(error))

    threads = [threading.Thread(target=guess) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got.count(NotSignedIn) == accounts.FREE_TRIES
    assert got.count(TooManyTries) == 40 - accounts.FREE_TRIES


def test_what_is_remembered_of_guessers_is_bounded(file, monkeypatch):
    monkeypatch.setattr(accounts, "REMEMBERED", 8)
    desk = Desk(file=file)
    for number in range(30):
        with pytest.raises(NotSignedIn):
            desk.check(f"name {number}", "wrong")
    assert len(desk._failures) == 8


def test_a_ticket_seats_its_holder_until_it_is_given_back(file):
    desk = Desk(file=file)
    ticket, one, two = desk.sign_in("anna", PASSWORD), Session(), Session()
    assert desk.seat(ticket, one) == desk.seat(ticket, two) == one.person == two.person == Person("anna", OPERATOR)
    stranger = Session()
    assert desk.seat("made up", stranger) == desk.seat(None, stranger) == stranger.person == Person()
    desk.sign_out(ticket)
    assert one.person == two.person == desk.person(ticket) == Person()
    assert desk.seat(ticket, one) == Person()


def test_a_ticket_is_good_for_one_shift(file, clock):
    desk = Desk(file=file)
    ticket = desk.sign_in("anna", PASSWORD)
    clock.now += accounts.SHIFT - 1
    assert desk.person(ticket).may(OPERATOR)
    clock.now += 2
    assert desk.person(ticket) == Person()


@pytest.mark.parametrize("change", ["password", "role", "removed", "damaged", "gone"])
def test_a_ticket_of_a_changed_account_is_worthless(file, change):
    desk = Desk(file=file)
    ticket = desk.sign_in("anna", PASSWORD)
    if change == "password":
        set_password(file, "anna", role=OPERATOR, password="another one")
    elif change == "role":
        set_password(file, "anna", role=VISITOR, password=PASSWORD)
    elif change == "removed":
        Accounts().save(file)
    elif change == "damaged":
        file.write_text("{")
    else:
        file.unlink()
    assert desk.person(ticket) == Person()


def test_after_a_restart_everybody_is_a_visitor(file):
    ticket = Desk(file=file).sign_in("anna", PASSWORD)
    assert Desk(file=file).person(ticket) == Person()


def test_the_token_signs_in_as_supervisor():
    desk = Desk(token="a-token")
    assert desk.person(desk.show("a-token")) == Person("supervisor", SUPERVISOR)
    assert desk.show("a-token ") is desk.show("") is None
    assert Desk().show("") is Desk().show("None") is None
    with pytest.raises(NotSignedIn):
        desk.sign_in("supervisor", "a-token")


def test_a_login_for_the_page_gives_no_role(file):
    desk = Desk(file=file, guests={"guest": "abc"})
    assert desk.check("guest", "abc") == Person("guest", VISITOR)
    with pytest.raises(NotSignedIn, match="has no role"):
        desk.sign_in("guest", "abc")


@pytest.mark.parametrize(
    "content, said",
    [
        ("{", "JSON"),
        ("[]", "object"),
        ('{"schema": 2, "accounts": {}}', "schema"),
        ('{"schema": 1, "accounts": {"anna": {"role": "boss", "salt": "", "scrypt": ""}}}', "accounts.anna.role"),
        (None, "No such file"),
    ],
)
def test_a_damaged_account_file_is_refused_in_one_sentence(tmp_path, content, said):
    path = tmp_path / "people.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(AccountsError) as refusal:
        Accounts.load(path)
    assert said.lower() in str(refusal.value).lower()
    assert "\n" not in str(refusal.value)


def test_a_damaged_file_is_not_written_over(tmp_path):
    path = tmp_path / "people.json"
    path.write_text("{")
    with pytest.raises(AccountsError):
        set_password(path, "anna", role=OPERATOR, password=PASSWORD)
    assert path.read_text() == "{"


def test_a_file_that_cannot_be_written_leaves_the_old_one(file, monkeypatch):
    before = file.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(AccountsError, match="No space left on device"):
        set_password(file, "otto", role=OPERATOR, password=PASSWORD)
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("name", ["", "a:b", "a" * 65, " anna", "a\nb"])
def test_a_name_that_could_not_be_typed_is_refused(tmp_path, name):
    with pytest.raises(UsageError, match="cannot be a name"):
        set_password(tmp_path / "people.json", name, role=OPERATOR, password=PASSWORD)


def test_passwd_on_the_command_line(tmp_path, monkeypatch, capsys):
    path = tmp_path / "people.json"
    command = ["passwd", "anna", "--role", "supervisor", "--auth-file", str(path)]
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{PASSWORD}\n"))
    assert cli.main(command) == 0
    assert Desk(file=path).check("anna", PASSWORD) == Person("anna", SUPERVISOR)
    assert PASSWORD not in capsys.readouterr().out
    before = path.read_bytes()
    for text, wrong in (("short\n", command), ("long enough\n", [*command[:3], "boss", *command[4:]])):
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        assert cli.main(wrong) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert path.read_bytes() == before


def test_a_role_that_does_not_exist_names_those_that_do(tmp_path):
    with pytest.raises(UnknownName, match="visitor, operator, supervisor"):
        set_password(tmp_path / "people.json", "anna", role="boss", password=PASSWORD)
