"""The database of a labelling project: the one place where what people painted is kept.

SQLite in WAL mode: readers never wait, writers take turns, and a transaction is there whole or not at all
after a kill or a power cut. All other files of a project can be made again from it, but for the models.
"""

import contextlib
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from ralx.datasets.errors import DataError
from ralx.support.files import RunError

VERSION = 1
WAIT_SECONDS = 60.0  # for another process's transaction
_FULL = 1 << 20  # bytes free, under which SQLite's errors, which are about its own files, mean a full disk

_SCHEMA = """
CREATE TABLE images (              -- numbered from 0 in the order of their names
    number INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,     -- relative to the images' folder
    height INTEGER NOT NULL,
    width INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    first_region INTEGER NOT NULL, -- flat index of the region at its top left
    stale INTEGER NOT NULL DEFAULT 0  -- whether its file in labels/ is older than its labels
);
CREATE TABLE rounds (
    number INTEGER PRIMARY KEY,
    method TEXT NOT NULL,
    model INTEGER,                 -- whose predictions the regions were chosen by
    seen BLOB,                     -- float32 [R, Ds] that the policy saw
    is_open INTEGER NOT NULL,      -- 0 while its files are being written: nobody has seen it
    asked_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
);
CREATE TABLE regions (
    id TEXT PRIMARY KEY,
    round INTEGER NOT NULL REFERENCES rounds,
    image INTEGER NOT NULL REFERENCES images,
    place INTEGER NOT NULL UNIQUE, -- flat index: no region is asked twice
    "top" INTEGER NOT NULL, "left" INTEGER NOT NULL, height INTEGER NOT NULL, width INTEGER NOT NULL,
    score REAL,
    kept INTEGER NOT NULL,         -- its label measures, and never trains
    guess BLOB,                    -- PNG of the classes that the model predicted when it was asked
    features BLOB,                 -- float32 [Da] that the policy saw of it
    state TEXT NOT NULL DEFAULT 'asked',
    annotator TEXT,                -- who has it, until `leased_until`
    leased_until REAL NOT NULL DEFAULT 0
);
CREATE TABLE labels (              -- the newest that isn't undone counts
    number INTEGER PRIMARY KEY,
    image INTEGER NOT NULL REFERENCES images,
    region TEXT,                   -- NULL: the image came with these labels
    "top" INTEGER NOT NULL, "left" INTEGER NOT NULL,
    pixels INTEGER NOT NULL,       -- that have a class
    png BLOB NOT NULL,
    annotator TEXT,
    seconds REAL,
    source TEXT NOT NULL,
    undone INTEGER NOT NULL DEFAULT 0,
    received_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
);
CREATE INDEX labels_of_image ON labels (image);
CREATE INDEX labels_of_region ON labels (region);
CREATE TABLE models (
    number INTEGER PRIMARY KEY,
    round INTEGER,
    regions INTEGER NOT NULL,      -- that it was trained on
    pixels INTEGER NOT NULL,
    minutes REAL,
    miou REAL, low REAL, high REAL,  -- on the kept regions, with a 95 % interval
    iou TEXT,                      -- by class, JSON
    trained_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
);
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


def create(path: Path) -> None:
    """Make an empty database."""
    with reading(path) as connection:
        connection.executescript(f"PRAGMA journal_mode = WAL; {_SCHEMA} PRAGMA user_version = {VERSION};")


def refuse_other_version(path: Path) -> None:
    """DataError where this is no database of a project, or that of another version."""
    if not path.is_file():
        raise DataError(f"{path.parent}: expected a labelling project with its project.db, found none")
    with reading(path) as connection:
        found = connection.execute("PRAGMA user_version").fetchone()[0]
    if found > VERSION:
        raise DataError(f"{path}: expected a project of version {VERSION}, found one of the newer {found}")
    if found != VERSION:
        raise DataError(f"{path}: expected a project of ralx, found another database")


@contextlib.contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection to look things up, with all that is committed."""
    try:
        connection = sqlite3.connect(path, timeout=WAIT_SECONDS, isolation_level=None)
        with contextlib.closing(connection):
            connection.row_factory = sqlite3.Row
            yield connection
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) == sqlite3.SQLITE_ERROR:
            raise  # a wrong statement: a defect of ralx
        is_full = shutil.disk_usage(path.parent).free < _FULL
        raise RunError(f"{path}: can't be used: {error}{', the disk is full' if is_full else ''}") from error


@contextlib.contextmanager
def writing(path: Path) -> Iterator[sqlite3.Connection]:
    """A transaction, alone in the project: all of it is kept at the end, or, after an error, nothing."""
    with reading(path) as connection:
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
