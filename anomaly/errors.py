"""Our exceptions. Each says in one sentence what was found and expected, and in a second what to do."""


class AnomalyError(Exception):
    """Base of every refusal a person can meet.

    Args:
        problem: what was found and what was expected, without the closing full stop.
        remedy: what to do next, as an imperative without the closing full stop.
    """

    def __init__(self, problem: str, remedy: str):
        super().__init__(problem, remedy)
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.problem}. {self.remedy}."


class ImageError(AnomalyError):
    """A file that cannot be inspected as an image."""


class EmptyFile(ImageError):
    """A file of zero bytes."""


class NotAnImage(ImageError):
    """A file in none of the formats that we read."""


class TruncatedImage(ImageError):
    """An image file that ends early or is damaged."""


class ImageTooLarge(ImageError):
    """An image over the pixel limit (also a guard against decompression bombs)."""


class WrongProduct(AnomalyError):
    """A photo of another product than the one that was asked for, or of none that is known.

    Args:
        product: what was seen instead, as under the key `product` of `python -m anomaly inspect --json`.
        capture: how the photo was taken otherwise than the good ones, where that may be all there is to it.
        attributes: words for what a photo of an unknown product shows.
    """

    def __init__(
        self, problem: str, remedy: str, product: dict, capture: tuple[str, ...] = (), attributes: tuple[str, ...] = ()
    ):
        described = (f"It looks like this: {' · '.join(attributes)}",) if attributes else ()
        super().__init__(problem, ". ".join((*described, *capture, remedy)))
        self.product = product
        self.capture = capture
        self.attributes = attributes


class ArchiveError(AnomalyError):
    """A ZIP that is damaged, too large, or not made of photos."""


class DatasetError(AnomalyError):
    """A folder that is missing, empty or in no layout that we read."""


class TooFewImages(DatasetError):
    """Fewer good images than the work needs."""


class UnknownName(AnomalyError):
    """A category, detector, backbone, rule or product that does not exist."""


class UsageError(AnomalyError):
    """An argument outside its range, or arguments that contradict each other."""


class NotFitted(AnomalyError):
    """A detector that is asked for a score before it was fitted."""


class BrokenRun(AnomalyError):
    """A trained run that is incomplete, damaged, or written by an unknown schema."""


class CannotSave(AnomalyError):
    """A run, a version or a photo that the disk does not take."""


class ThresholdError(AnomalyError):
    """A threshold.json that cannot be used."""


class MissingThreshold(ThresholdError):
    """No operating point is stored for a category and detector; it never means OK."""


class StaleThreshold(ThresholdError):
    """The operating point was set for other weights than those loaded."""


class ConflictingSave(ThresholdError):
    """Somebody else saved other limits since this person began."""


class UnsupportedPromise(ThresholdError):
    """A false-alarm promise that the number of held-out good images cannot support."""


class BackboneError(AnomalyError):
    """Backbone weights that are missing, damaged or not the ones expected."""


class Forbidden(AnomalyError):
    """Something that the role of this person does not allow."""


class RecordError(AnomalyError):
    """The inspection record cannot be read or written."""


class AccountsError(AnomalyError):
    """The account file cannot be read or written."""


class NotSignedIn(Forbidden):
    """A name or password that is wrong, or none where one is needed."""


class TooManyTries(Forbidden):
    """A password for a name for which wrong ones have just been given."""
