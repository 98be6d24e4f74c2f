"""The drop zones through which photos enter, as they are and from nowhere but the person's own machine."""

from pathlib import Path

import gradio as gr
from gradio import component_meta
from gradio.utils import get_upload_folder

# gradio writes a stub file beside the source of each component class that it meets; an import must write nothing.
component_meta.create_or_modify_pyi = lambda *_: None


class Photo(gr.Image):
    """A drop zone that hands on the file as it was uploaded, byte for byte.

    gradio's own image is opened, and by some ways re-encoded, before a handler sees it; the score must be that of
    the very file, and a damaged file must reach our decoder, which can say what is wrong with it.
    """

    is_template = True  # drawn by the browser as gradio's image

    def example_payload(self):
        return None  # gradio's own example is a picture on another server

    def example_value(self):
        return None

    def preprocess(self, payload) -> str | None:
        if payload is None:
            return None
        return _uploaded(payload.path)

    async def async_move_resource_to_block_cache(self, url_or_file_path):
        _refuse_address(url_or_file_path)
        return await super().async_move_resource_to_block_cache(url_or_file_path)


# A mirrored photo is another part: lettering, threads and one-sided defects would no longer match the good ones.
CAMERA = gr.WebcamOptions(
    mirror=False,
    constraints={"video": {"facingMode": "environment", "width": {"ideal": 1920}, "height": {"ideal": 1080}}},
)


def drop_zone(label: str, name: str, *, visible: bool = True) -> Photo:
    """Where a person drops, pastes or takes one photo; `name` is the id of its element."""
    return Photo(
        label=label,
        placeholder="Drop a photo here\nor click to choose a file",
        sources=["upload", "webcam", "clipboard"],
        webcam_options=CAMERA,
        buttons=[],
        height=208,
        interactive=True,
        visible=visible,
        elem_id=name,
        elem_classes="drop",
    )


class Photos(gr.File):
    """A drop zone for many files (`file_count` "multiple"), photos or ZIPs, handed on as they were uploaded."""

    is_template = True  # drawn by the browser as gradio's file

    def example_payload(self):
        return None

    def example_value(self):
        return None

    def preprocess(self, payload) -> list[str]:
        return [_uploaded(file.path) for file in payload.root] if payload else []

    async def async_move_resource_to_block_cache(self, url_or_file_path):
        _refuse_address(url_or_file_path)
        return await super().async_move_resource_to_block_cache(url_or_file_path)


def _refuse_address(place) -> None:
    """The server fetches nothing on behalf of a visitor."""
    if str(place or "").lower().startswith(("http:", "https:")):
        raise gr.Error("Upload the image itself, not its address.", print_exception=False)


def _uploaded(path: str | None) -> str:
    """Refuse any path but that of an upload.

    gradio checks this only for payloads that call themselves a file; a script may leave that word out.
    """
    if path is None or not Path(path).resolve().is_relative_to(Path(get_upload_folder()).resolve()):
        raise gr.Error("Upload the image as a file.", print_exception=False)
    return path
