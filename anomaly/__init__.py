"""Surface-defect inspection: good photos in, a verdict in the browser out."""

__version__ = "0.1.0"
