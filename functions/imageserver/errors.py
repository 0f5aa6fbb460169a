"""Every error this server raises on purpose, by who can act on it."""

from collections.abc import Mapping


class SimplestreamsError(Exception):
    """Base of all of them. The message is a sentence: what, where, expected against found, what to do."""


class InvalidUpload(SimplestreamsError):
    """The publisher must change something. Reported and acknowledged, never retried."""


class CatalogBusy(SimplestreamsError):
    """Every attempt at a conditional write lost its race. Nobody acts: redelivery tries again."""


class LeaseHeld(SimplestreamsError):
    """Another worker is at it, and may or may not get to its end. Nobody acts: redelivery looks again."""


class OutOfTime(SimplestreamsError):
    """This run cannot read a version to its end. Nobody acts: another run, which has all its time, does."""


class StorageUnavailable(SimplestreamsError):
    """Storage throttled, timed out or failed on its side. Nobody acts: redelivery tries again."""


class ObjectChanged(SimplestreamsError):
    """The object is no longer the one that was listed. Nobody acts: look again and start over."""


class UploadHidden(SimplestreamsError):
    """A delete hid an upload that came after what it was about. The operator must bring the upload back."""


class StorageDenied(SimplestreamsError):
    """Storage refused us. The operator must repair a policy; nothing was written."""


class InvalidationRefused(SimplestreamsError):
    """CloudFront calls an invalidation invalid. The operator must act: the same one is refused again."""


class CatalogDamaged(SimplestreamsError):
    """A document of ours cannot be read. The operator must repair it; nothing was written."""


class TasksFailed(SimplestreamsError):
    """A run did all that it could, and some products of it failed. The operator looks at those that it names."""


class NewerRecord(CatalogDamaged):
    """A record of a newer release, which this one cannot read. The operator must use that release."""


class UpstreamRefused(SimplestreamsError):
    """Another image server's document cannot be used. Its operator, or ours, must act; nothing was changed."""


class UpstreamUnavailable(SimplestreamsError):
    """Another image server does not answer, or not yet. Nobody acts: redelivery tries again.

    `retry_after_s` is how long it asked us to wait, 0 where it named no time.
    """

    def __init__(self, message: str, retry_after_s: float = 0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class UpstreamChanged(UpstreamUnavailable):
    """A file of another image server was replaced while we read it. Nobody acts: it is read from its start."""


class ProgramFailed(SimplestreamsError):
    """A program that was started failed, or took too long. It would again: what it was for is given up."""


class InvalidFilter(SimplestreamsError):
    """A filter of what to bring in from another server cannot be read. Its author must change it."""


class InvalidMirror(SimplestreamsError):
    """The configuration of a mirror cannot be used. Its author must change it."""


class InvalidView(SimplestreamsError):
    """A view, a token or a promotion cannot be as it was asked for. Its author must change it."""


class NoView(InvalidView):
    """There is no view of that name."""


class NoVersion(InvalidView):
    """There is no version of that name, or none that was looked at yet."""


class OtherState(InvalidView):
    """A version or a channel is in another state than the request expects. Its author looks again."""


class NotPassed(InvalidView):
    """A version has not passed a check that it needs. Its publisher runs the check. `missing`: check -> why."""

    def __init__(self, version: str, missing: Mapping[str, str]) -> None:
        self.version = version
        self.missing = dict(missing)
        said = "; ".join(f"the check {name} {why}" for name, why in self.missing.items())
        first = next(iter(self.missing))
        super().__init__(
            f"{version} cannot be promoted: {said}. A job with the right check:{first} posts a result to POST /checks "
            "of the upload API, see its /openapi.json"
        )
