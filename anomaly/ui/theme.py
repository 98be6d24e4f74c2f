"""The look of the app: a gradio theme, one style sheet and one script, all served from this machine."""

from pathlib import Path

import gradio as gr

CSS = Path(__file__).with_name("page.css")
SCRIPT = Path(__file__).with_name("page.js")
ICON = Path(__file__).with_name("icon.svg")
WORDS = Path(__file__).with_name("words.json")

# Each language is named in itself, so that it is found by whoever cannot read the others.
LANGUAGES = (
    '<select id="language" aria-label="Language / 语言 / Bahasa" translate="no"><option value="en">English</option>'
    '<option value="zh-CN" lang="zh-CN">中文</option><option value="ms" lang="ms">Melayu</option></select>'
)

# Fonts of the person's own system: a font service would be a request off this machine.
SANS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "Helvetica Neue", "Arial", "sans-serif")
MONO = ("ui-monospace", "SF Mono", "Cascadia Mono", "Consolas", "DejaVu Sans Mono", "monospace")

STEEL = gr.themes.Color(
    c50="#f1f6fb",
    c100="#dfeaf5",
    c200="#bed5ea",
    c300="#90b7d9",
    c400="#5c93c2",
    c500="#3876aa",
    c600="#1f5d90",
    c700="#194b75",
    c800="#163e60",
    c900="#12324e",
    c950="#0b2033",
    name="steel",
)


def theme() -> gr.themes.Base:
    """Cool grey surfaces, one steel blue for what can be touched; red, amber and green belong to the verdict alone."""
    return gr.themes.Base(
        primary_hue=STEEL,
        secondary_hue=STEEL,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_md,
        text_size=gr.themes.sizes.text_md,
        font=list(SANS),
        font_mono=list(MONO),
    ).set(
        body_background_fill="#eef1f5",
        body_background_fill_dark="#0d1218",
        body_text_color="#15202b",
        body_text_color_dark="#e7edf3",
        body_text_color_subdued="#526272",
        body_text_color_subdued_dark="#9fb0c0",
        block_background_fill="#ffffff",
        block_background_fill_dark="#161d26",
        block_border_color="#d5dce4",
        block_border_color_dark="#2a3542",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_label_border_width="0",
        block_label_text_color="*body_text_color",
        block_label_text_color_dark="*body_text_color",
        block_label_text_weight="600",
        block_title_text_weight="600",
        block_title_text_size="*text_md",
        block_title_text_color="*body_text_color",
        block_title_text_color_dark="*body_text_color",
        block_shadow="0 1px 2px rgba(16, 32, 48, .06)",
        block_shadow_dark="none",
        border_color_primary="#d5dce4",
        border_color_primary_dark="#2a3542",
        input_background_fill="#ffffff",
        input_background_fill_dark="#10161d",
        input_border_width="1px",
        input_border_color="#b9c5d1",
        input_border_color_dark="#3a4858",
        button_large_text_weight="600",
        button_secondary_background_fill="#ffffff",
        button_secondary_background_fill_dark="#1e2833",
        button_secondary_border_color="#b9c5d1",
        button_secondary_border_color_dark="#3a4858",
        slider_color="*primary_600",
        slider_color_dark="*primary_400",
        checkbox_label_background_fill="#ffffff",
        checkbox_label_background_fill_dark="#1b2530",
        checkbox_label_background_fill_selected="*primary_600",
        checkbox_label_background_fill_selected_dark="*primary_600",
        checkbox_label_text_color_selected="#ffffff",
        checkbox_label_text_color_selected_dark="#ffffff",
        checkbox_label_border_color="#c6d0da",
        checkbox_label_border_color_dark="#364454",
    )


def head() -> str:
    words = WORDS.read_text(encoding="utf-8").replace("</", "<\\/")  # a closing tag would end the script
    return f"<script>window.words = {words};\n{SCRIPT.read_text(encoding='utf-8')}</script>"
