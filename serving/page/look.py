"""How the page looks and is served: theme, style sheet, and the options that `launch` and `mount_gradio_app` share.

Fonts are those of the visitor's system, and nothing is loaded from elsewhere: the page works offline."""

from pathlib import Path
from typing import Any

import gradio as gr

STYLES = Path(__file__).with_name("look.css")
FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC"]
FRAME = """<style>
.gradio-container.gradio-container { max-width: 1180px !important; width: 100%; margin: 0 auto !important;
  padding: 8px 0 24px !important; }
@media (max-width: 720px) { .gradio-container .main.fillable.fillable { padding: 8px 8px !important; } }
</style>"""  # around all components, where Gradio lets no style sheet reach
UPLOADED = "40mb"  # refused while it comes in; what is smaller and still too large gets a sentence of ours
BLUES = ["#eef6fb", "#d8eaf5", "#b3d7ea", "#83bddc", "#3d97c8", "#0072B2", "#00629a", "#00517f", "#004062", "#002f48"]


def theme() -> gr.themes.Base:
    """Blue of the figures on quiet greys."""
    blue = gr.themes.Color(*BLUES, "#001d2d", name="figures")
    base = gr.themes.Base(
        primary_hue=blue,
        secondary_hue=blue,
        neutral_hue="zinc",
        radius_size="lg",
        font=[*FONTS, "sans-serif"],
        font_mono=["ui-monospace", "Consolas", "monospace"],
    )
    return base.set(
        body_background_fill="#ffffff",
        body_background_fill_dark="#131417",
        background_fill_primary_dark="#1b1c20",
        background_fill_secondary="#f7f8fa",
        background_fill_secondary_dark="#1b1c20",
        body_text_color_subdued="#666c76",
        body_text_color_subdued_dark="#a2a7b0",
        border_color_primary="#e4e6ea",
        border_color_primary_dark="#303238",
        block_background_fill_dark="#1b1c20",
        input_background_fill="#ffffff",
        input_background_fill_dark="#131417",
        button_primary_background_fill="*primary_500",
        button_primary_background_fill_hover="*primary_600",
        button_primary_background_fill_dark="*primary_500",
        button_primary_background_fill_hover_dark="*primary_600",
        button_primary_text_color="white",
        button_secondary_background_fill="#ffffff",
        button_secondary_background_fill_dark="#131417",
        button_secondary_border_color="*border_color_primary",
        slider_color="*primary_500",
        slider_color_dark="*primary_400",
        block_label_text_weight="500",
        block_title_text_weight="500",
        block_title_text_size="*text_sm",
    )


def options() -> dict[str, Any]:
    """What `launch` and `mount_gradio_app` both take."""
    return {
        "theme": theme(),
        "css": STYLES.read_text(encoding="utf-8"),
        "head": FRAME,
        "max_file_size": UPLOADED,
        "footer_links": [],
        "run_history": False,
        "enable_monitoring": False,
        "show_error": False,
        "ssr_mode": False,
        "mcp_server": False,
    }
