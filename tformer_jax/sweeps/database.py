"""The database of a search, which Optuna writes, and the lock that its workers share."""

import contextlib
import fcntl
import functools
import hashlib
import re
import sqlite3
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import optuna
import sqlalchemy
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage

from ..config import ConfigError
from ..data.files import writing
from ..training.directories import RunError

# A worker says so often that it is alive; after so long a silence it is dead.
HEARTBEAT_SECONDS = 10
GRACE_SECONDS = 60
# For a lock of SQLite's own, which others than workers hold for a moment, such as a dashboard.
_BUSY_SECONDS = 60
_CONNECT_SECONDS = 10


class Database:
    """Optuna's storage. All that reads or writes it does so within `locked`.

    Attributes:
      storage: Optuna's.
    """

    def __init__(self, make: Callable[[], RDBStorage], hold: Callable[[], AbstractContextManager], shown: str):
        """Args:
        make: connects, and makes the tables if there are none.
        hold: the lock of all workers.
        shown: what to call it in messages.

        Raises:
          ConfigError: it cannot be reached, or is no such database.
        """
        self._hold, self._shown = hold, shown
        self._thread = threading.Lock()
        # The worker says what Optuna would; heartbeats do not need its loop, nor is it news that a trial goes on.
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.filterwarnings("ignore", category=ExperimentalWarning)
        warnings.filterwarnings("ignore", "Heartbeat of storage is supposed to be used with")
        warnings.filterwarnings("ignore", "The reported value is ignored because this")
        try:
            with self.locked():
                self.storage = make()
        except RunError as error:
            raise ConfigError(str(error)) from None
        except RuntimeError as error:  # the tables are of another version of Optuna
            raise ConfigError(f"cannot use the database {shown}: {error}") from None

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps all other workers, and this one's other threads, from reading or writing.

        The lock is the operating system's or the database's: whatever ends the process, it is gone.

        Raises:
          RunError: the database cannot be used any more; it says nothing of a trial's config.
        """
        try:
            with self._thread, self._hold():
                yield
        except (sqlalchemy.exc.SQLAlchemyError, StorageInternalError) as error:
            cause = error.__cause__ if isinstance(error, StorageInternalError) else error
            said = " ".join(str(getattr(cause, "orig", None) or cause or error).split())
            raise RunError(f"cannot use the database {self._shown}: {said}") from None

    @contextlib.contextmanager
    def understood(self) -> Iterator[None]:
        """Within the context, what is there must be what Optuna and a search write.

        Raises:
          RunError: it is not (instead of what Optuna, or a conversion, raises).
        """
        try:
            yield
        except (RunError, ConfigError):
            raise
        except (ValueError, LookupError, TypeError) as error:
            said = " ".join(str(error).split())
            raise RunError(
                f"the database {self._shown} is damaged: {said}; put it back, or choose another --workdir"
            ) from None

    def close(self) -> None:
        """Ends all connections."""
        self.storage.remove_session()
        self.storage.engine.dispose()


def open_sqlite(directory: Path) -> Database:
    """The file `study.db` of a directory, made if it is not there.

    Raises:
      ConfigError: it is no such database.
    """
    file = directory / "study.db"
    # By a function: a path may have characters that mean something in a URL.
    connect = functools.partial(sqlite3.connect, file, timeout=_BUSY_SECONDS, check_same_thread=False)
    make = functools.partial(_storage, "sqlite:///study.db", {"creator": connect})
    return Database(make, functools.partial(_file_lock, directory / "study.lock"), str(file))


def open_postgresql(url: str, study: str) -> Database:
    """A database of a PostgreSQL server, by its URL; searches with other names of studies have other locks.

    Raises:
      ConfigError: there is no driver, the URL cannot be read, or the database not be reached.
    """
    shown = without_password(url)
    try:
        parsed = sqlalchemy.make_url(url)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        raise ConfigError(f"storage must be a URL such as postgresql://user@host/database, got {shown}") from None
    if "@" in (parsed.host or ""):
        raise ConfigError(f"storage has more than one @: write an @ of a password as %40; got {shown}")
    if parsed.drivername == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    # Optuna keeps heartbeats without their time zone: of a zone with summer time, an hour may come twice, or never.
    options = f"{parsed.query.get('options', '')} -c timezone=UTC".strip()
    parsed = parsed.update_query_dict({"connect_timeout": str(_CONNECT_SECONDS), "options": options})
    try:
        engine = sqlalchemy.create_engine(parsed, poolclass=sqlalchemy.NullPool)
    except ImportError as error:
        raise ConfigError(f"PostgreSQL needs {error.name}: pip install tformer_jax[postgresql]") from None

    def make() -> RDBStorage:
        with _advisory_lock(engine, "tables"):  # which all studies share
            pool = {"pool_size": 1, "max_overflow": 1, "pool_pre_ping": True}
            return _storage(parsed.render_as_string(hide_password=False), pool)

    return Database(make, functools.partial(_advisory_lock, engine, f"study {study}"), shown)


def without_password(url: str) -> str:
    """A URL to be shown; its options, of which one may be a password, are left out too."""
    return re.sub(r"(://[^:@/]*:).*@", r"\1***@", url).partition("?")[0]


def _storage(url: str, engine: dict) -> RDBStorage:
    return RDBStorage(url, engine, heartbeat_interval=HEARTBEAT_SECONDS, grace_period=GRACE_SECONDS)


@contextlib.contextmanager
def _file_lock(file: Path) -> Iterator[None]:
    with writing(file):
        opened = open(file, "a")
    with opened:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _advisory_lock(engine: sqlalchemy.Engine, name: str) -> Iterator[None]:
    key = int.from_bytes(hashlib.sha256(f"tformer_jax {name}".encode()).digest()[:8], signed=True)
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})
        yield
