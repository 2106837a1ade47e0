"""The whole exception tree, one page, with the exit code each ends the command line with.

Every message names what was wrong and one fix, and never holds a cell of the client's data or a secret.
Exit codes: 1 unexpected, 2 bad input, 3 something is not running or not reachable, 4 money or chain,
5 the job failed after it had started, 6 a protocol rule was broken by the other side, 130 interrupted.

    CloudLinkUpError
    ├── BadInput                 field, value, fix: refused before any money was locked
    ├── Unavailable              a service, a port, a program file is missing or does not answer
    ├── LedgerError              the chain refused, or could not be asked
    │   ├── ProgramError         the escrow program's own error, by name and message
    │   └── NotConfirmed         no confirmation before the blockhash expired
    ├── JobFailed                the job cannot go on; what was verified is paid, the rest returns
    │   └── NoContributors       nobody (left) who may and can do the work
    ├── ClusterError             between the flow and a contributor
    │   ├── ContributorLost      its channel or its worker is gone
    │   ├── ShardTimeout         its deadline passed
    │   ├── ContributorRefused   it answered with an error of its own (code, message)
    │   └── ClusterLost          the scheduler itself is gone
    └── ProtocolError            a message, signature, hash or size is not what the protocol says
        └── SealError            a sealed blob does not open: wrong key, context, order or length
"""

from __future__ import annotations


class CloudLinkUpError(Exception):
    """Root of everything this project raises on purpose."""

    exit_code = 1


class BadInput(CloudLinkUpError):
    """The user's input is refused. `field` is a dotted path (``train.batch``), `value` is safe to print."""

    exit_code = 2

    def __init__(self, field: str, value: object, problem: str, fix: str) -> None:
        self.field, self.value, self.problem, self.fix = field, value, problem, fix
        shown = repr(value)
        if len(shown) > 120:
            shown = shown[:117] + "..."
        super().__init__(f"{field} = {shown}: {problem}. Fix: {fix}")

    def __reduce__(self) -> tuple[type[BadInput], tuple[str, object, str, str]]:
        return type(self), (self.field, self.value, self.problem, self.fix)


class Unavailable(CloudLinkUpError):
    """A service, port or file that is needed is not there."""

    exit_code = 3


class LedgerError(CloudLinkUpError):
    """The chain refused, or could not be asked."""

    exit_code = 4


class ProgramError(LedgerError):
    """The escrow program refused a transaction: `code` (from 6000), `name`, the program's message and one fix."""

    def __init__(self, code: int, name: str, message: str, fix: str = "") -> None:
        self.code, self.name, self.message, self.fix = code, name, message, fix
        super().__init__(f"{name} ({code}): {message}" + (f" Fix: {fix}" if fix else ""))

    def __reduce__(self) -> tuple[type[ProgramError], tuple[int, str, str, str]]:
        return type(self), (self.code, self.name, self.message, self.fix)


class NotConfirmed(LedgerError):
    """The transaction was sent, and its blockhash expired before a confirmation was seen."""


class JobFailed(CloudLinkUpError):
    """The job cannot go on."""

    exit_code = 5


class NoContributors(JobFailed):
    """Nobody is connected, allowed and able to do the work (any more)."""


class ClusterError(CloudLinkUpError):
    """Something between the flow and a contributor."""

    exit_code = 5


class ContributorLost(ClusterError):
    """The contributor's channel or Dask worker is gone."""


class ShardTimeout(ClusterError):
    """No answer before the deadline."""


class ContributorRefused(ClusterError):
    """The contributor answered with an error. `code` is a short stable word."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(f"{code}: {message}")

    def __reduce__(self) -> tuple[type[ContributorRefused], tuple[str, str]]:
        return type(self), (self.code, str(self).partition(": ")[2])


class ClusterLost(ClusterError):
    """The Dask scheduler is gone."""


class ProtocolError(CloudLinkUpError):
    """A message, signature, hash or size is not what the protocol says."""

    exit_code = 6


class SealError(ProtocolError):
    """A sealed blob does not open."""
