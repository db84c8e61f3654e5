"""collectkit keeps local PostgreSQL tables in step with external sources: the names that authors and services use."""

from __future__ import annotations

from playhouse.postgres_ext import DateTimeTZField

from collectkit.acl import acl_scope, add_groups, group_ids, named_acl, set_user_acls
from collectkit.actor import Collector, Outcome
from collectkit.body import Download
from collectkit.boot import setup
from collectkit.collector import collector
from collectkit.counts import Counts
from collectkit.database import connect, disconnect
from collectkit.errors import (
    AmbiguousName,
    CheckpointRefused,
    CollectkitError,
    DatabaseUnavailable,
    DeclarationError,
    EmbeddedServerError,
    FetchError,
    LeaseLost,
    LoadError,
    NotConnected,
    ScheduleError,
    ScopeError,
    SettingsError,
    SnapshotRefused,
    TooLarge,
    TooManyRejected,
    UnknownCollector,
)
from collectkit.fetch import fetch, meta_of
from collectkit.freshness import Freshness, complete_until, freshness, request_run
from collectkit.git import Repository, fetch_git
from collectkit.groups import Acl
from collectkit.load import Batch
from collectkit.models import AclModel, Model
from collectkit.ratelimit import RateLimit
from collectkit.records import decode_each, decode_files
from collectkit.rejection import Rejected
from collectkit.run import Run
from collectkit.schedule import CronSpec, cron
from collectkit.settings import CollectorSettings, Settings, load_settings
from collectkit.status import read_status
from collectkit.textrows import TextRows
from collectkit.windows import Window

__all__ = [
    "Acl",
    "AclModel",
    "AmbiguousName",
    "Batch",
    "CheckpointRefused",
    "CollectkitError",
    "Collector",
    "CollectorSettings",
    "Counts",
    "CronSpec",
    "DatabaseUnavailable",
    "DateTimeTZField",
    "DeclarationError",
    "Download",
    "EmbeddedServerError",
    "FetchError",
    "Freshness",
    "LeaseLost",
    "LoadError",
    "Model",
    "NotConnected",
    "Outcome",
    "RateLimit",
    "Rejected",
    "Repository",
    "Run",
    "ScheduleError",
    "ScopeError",
    "Settings",
    "SettingsError",
    "SnapshotRefused",
    "TextRows",
    "TooLarge",
    "TooManyRejected",
    "UnknownCollector",
    "Window",
    "acl_scope",
    "add_groups",
    "collector",
    "complete_until",
    "connect",
    "cron",
    "decode_each",
    "decode_files",
    "disconnect",
    "fetch",
    "fetch_git",
    "freshness",
    "group_ids",
    "load_settings",
    "meta_of",
    "named_acl",
    "read_status",
    "request_run",
    "set_user_acls",
    "setup",
]
