"""What the command's exit codes mean."""

from __future__ import annotations

from enum import IntEnum

from bridge.errors import (
    BUSY,
    SETTINGS_CODE,
    STOPPED_CODE,
    UNAVAILABLE_CODE,
    ApiError,
    EndpointUnknown,
    JobRejected,
    LedgerUnavailable,
    OutputUnavailable,
    SchemaTooNew,
    ServerUnavailable,
    SettingsError,
)


class ExitCode(IntEnum):
    """Named, so that a script can tell one end from another."""

    OK = 0
    CRASHED = 1
    USAGE = 2
    REJECTED = 3
    FAILED = 4
    TIMED_OUT = 5
    CANCELLED = 6
    LOST = 7
    UNKNOWN = 8
    UNAVAILABLE = UNAVAILABLE_CODE
    UNHEALTHY = 10
    SETTINGS = SETTINGS_CODE
    STOPPED = STOPPED_CODE

    @classmethod
    def of(cls, error: Exception) -> ExitCode:
        """The code of an error."""
        if isinstance(error, JobRejected):
            if error.document.get("unknown"):
                return cls.UNKNOWN
            return cls.UNAVAILABLE if error.document.get("reason") == BUSY else cls.REJECTED
        if isinstance(error, EndpointUnknown):
            return cls.REJECTED
        if isinstance(error, LedgerUnavailable | ServerUnavailable | ApiError | OutputUnavailable):
            return cls.UNAVAILABLE
        return cls.SETTINGS if isinstance(error, SettingsError | SchemaTooNew) else cls.FAILED

    @classmethod
    def of_status(cls, status: str) -> ExitCode:
        """The code of a request's end."""
        ends = {
            "COMPLETED": cls.OK,
            "FAILED": cls.FAILED,
            "TIMED_OUT": cls.TIMED_OUT,
            "CANCELLED": cls.CANCELLED,
            "REJECTED": cls.REJECTED,
        }
        return ends.get(status, cls.LOST)


EPILOG = "Exit codes: " + ", ".join(f"{code.value} {code.name.lower()}" for code in ExitCode)
