"""What the tabs share of gradio: how their events answer, and a plain piece of HTML."""

import gradio as gr

# "always_last": an event that comes while the one before it runs must not be dropped, as gradio does by default.
QUICK = {
    "show_progress": "hidden",
    "trigger_mode": "always_last",
    "api_visibility": "private",
    "concurrency_limit": None,
}
# Past the queue, since the work is next to nothing.
AT_ONCE = QUICK | {"queue": False}
# What comes while the one before is answered is dropped: a second click, or ticks on a slow line.
ONCE = AT_ONCE | {"trigger_mode": "once"}

# Bubbles the click on a button up to gradio, with its index only.
SEND_INDEX = """element.addEventListener('click', event => {
  const button = event.target.closest('button[data-index]');
  if (button) trigger('click', {index: Number(button.dataset.index)});
});"""


def html(name: str, value: str = "", *, script: str | None = None) -> gr.HTML:
    """A place of the page that we draw ourselves.

    Args:
        name: id of its element; script: run by the browser once it is there, with `element` and `trigger`.
    """
    return gr.HTML(value, elem_id=name, apply_default_css=False, js_on_load=script)
