"""The drop zone through which a photo enters, as it is and from nowhere but the person's own machine."""

from pathlib import Path

import gradio as gr
from gradio import component_meta

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
        uploads = Path(self.GRADIO_CACHE).resolve()
        # gradio checks this only for payloads that call themselves a file; a script may leave that word out.
        if payload.path is None or not Path(payload.path).resolve().is_relative_to(uploads):
            raise gr.Error("Upload the image as a file.", print_exception=False)
        return payload.path

    async def async_move_resource_to_block_cache(self, url_or_file_path):
        """Refuse addresses: the server fetches nothing on behalf of a visitor."""
        if str(url_or_file_path or "").lower().startswith(("http:", "https:")):
            raise gr.Error("Upload the image itself, not its address.", print_exception=False)
        return await super().async_move_resource_to_block_cache(url_or_file_path)
