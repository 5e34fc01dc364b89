"""The course's colors, all in one place: for charts on white, and for the labs in JupyterLab's two themes.

The contrast of a line with its background is at least 3:1 and that of text at least 4.5:1, as WCAG 2.2 requires
(1.4.11 and 1.4.3); tests/test_palette.py measures it. Nothing is distinguished by color alone: a dash, a marker or a
name does the same.
"""

# For charts, after Okabe and Ito (Color Universal Design, 2008), who chose them for color-blind readers. Their orange
# #e69f00 and sky blue #56b4e9 are too pale for a line on white, so these two are darker.
BLUE, ORANGE, GREEN, RED, SKY, PINK = "#0072b2", "#c78500", "#009e73", "#d55e00", "#3099d6", "#cc79a7"
# Gray is for a line of its own, light gray for what lies behind one, and ink for outlines.
GRAY, LIGHT_GRAY, INK = "#777777", "#8f8f8f", "#222222"
# The same hues for text, which must be darker than lines.
WORDS = {BLUE: BLUE, ORANGE: "#9a6700", GREEN: "#00795a", RED: "#b34e00", PINK: "#ad4f85"}

# For the labs: each name becomes a CSS variable --lab-name. Ink, faint gray and grid are JupyterLab's own.
LABS = {
    "light": {
        "accent": BLUE,
        "second": "#b34e00",
        "good": "#00795a",
        "slow": "#8a6d00",
        "bad": "#b34e00",
        "fourth": "#a8327d",
    },
    "dark": {
        "accent": "#56b4e9",
        "second": "#f0a04b",
        "good": "#35c79b",
        "slow": "#e0c03a",
        "bad": "#f0803c",
        "fourth": "#e58fc8",
    },
}


def variables(theme: str) -> str:
    """Return the labs' colors of a theme, "light" or "dark", as CSS variables."""
    return " ".join(f"--lab-{name}: {color};" for name, color in LABS[theme].items())
