"""Every error this server raises on purpose, by who can act on it."""

from collections.abc import Mapping


class SimplestreamsError(Exception):
    """Base of all of them. The message is a sentence: what, where, expected against found, what to do."""


class InvalidUpload(SimplestreamsError):
    """The publisher must change something. Reported and acknowledged, never retried."""


class CatalogBusy(SimplestreamsError):
    """Every attempt at a conditional write lost its race. Nobody acts: redelivery tries again."""


class LeaseHeld(SimplestreamsError):
    """Another worker holds the lease, and may or may not finish. Nobody acts: redelivery looks again."""


class OutOfTime(SimplestreamsError):
    """This run has too little time left to read the version. Nobody acts: a run with its full time will."""


class StorageUnavailable(SimplestreamsError):
    """Storage throttled, timed out or failed on its side. Nobody acts: redelivery tries again."""


class UnreadableLog(SimplestreamsError):
    """An access log cannot be read, so tokens may be left in it. The operator must delete it."""


class ObjectChanged(SimplestreamsError):
    """The object is no longer the one that was listed. Nobody acts: the attempt starts again from a fresh listing."""


class UploadHidden(SimplestreamsError):
    """A delete hid an upload that came after the object it was meant for. The operator must bring the upload back."""


class StorageDenied(SimplestreamsError):
    """Storage denied access. The operator must repair a policy; nothing was written."""


class InvalidationRefused(SimplestreamsError):
    """CloudFront calls an invalidation invalid. The operator must act: a retry would fail the same way."""


class CatalogDamaged(SimplestreamsError):
    """One of our documents cannot be read. The operator must repair it; nothing was written."""


class TasksFailed(SimplestreamsError):
    """A run finished, and some of its products failed.

    The operator must look at the products that the message names.
    """


class NewerRecord(CatalogDamaged):
    """A newer release wrote this record, and this one cannot read it. The operator must deploy that release."""


class UpstreamRefused(SimplestreamsError):
    """Another image server's document cannot be used. Its operator, or ours, must act; nothing was changed."""


class UpstreamUnavailable(SimplestreamsError):
    """Another image server does not answer, or asks us to wait. Nobody acts: redelivery tries again.

    `retry_after_s` is how long it asked us to wait, 0 where it named no time.
    """

    def __init__(self, message: str, retry_after_s: float = 0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class UpstreamChanged(UpstreamUnavailable):
    """A file of another image server was replaced while it was read. Nobody acts: it is read again from its start."""


class ProgramFailed(SimplestreamsError):
    """A program failed or took too long. It would do so again, so its task is given up."""


class InvalidFilter(SimplestreamsError):
    """A filter for another server's images cannot be read. Its author must change it."""


class InvalidMirror(SimplestreamsError):
    """The configuration of a mirror cannot be used. Its author must change it."""


class InvalidView(SimplestreamsError):
    """A view, a token or a promotion cannot be made as requested. Its author must change it."""


class NoView(InvalidView):
    """No view has that name."""


class NoVersion(InvalidView):
    """No version has that name, or digest has not looked at it yet."""


class OtherState(InvalidView):
    """A version or a channel is in another state than the request expects. Its author looks again."""


class NotPassed(InvalidView):
    """A version has not passed a required check. Its publisher runs the check. `missing`: check -> why."""

    def __init__(self, version: str, missing: Mapping[str, str]) -> None:
        self.version = version
        self.missing = dict(missing)
        reasons = "; ".join(f"the check {name} {why}" for name, why in self.missing.items())
        first = next(iter(self.missing))
        super().__init__(
            f"{version} cannot be promoted: {reasons}. A job with the right check:{first} posts a result to "
            "POST /checks of the upload API, see its /openapi.json"
        )
