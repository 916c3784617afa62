"""Options with letters to choose from, as multiple-choice questions list them ("A. …", "b) …")."""

import re

LEAST_OPTIONS = 3
"""Options from which a list of them ("A. …", "B) …") is taken for a question's choices; two are enough on lines of
their own."""
OPTIONS_WITHIN = 2000
"""Characters at the end of a text in which its options are looked for."""
_OPTION = re.compile(
    r"(?<!\S)[(\[{*_\"'-]{0,4}\s?(?P<letter>[A-Ha-h])(?P<mark>[.)\]:：．、*_\"']|\s?[-–—]\s)\W{0,4}(?=\S)"
)
"""The letter before an option, on a line of its own or after a blank, plain or as Markdown or JSON write it."""


def offers_letters(text: str) -> bool:
    """Whether a text offers options with letters to choose from, A and B and so on in order."""
    return bool(offered_letters(text))


def offered_letters(text: str) -> tuple[str, ...]:
    """Returns the letters of the longest list of options in a text, as they are written, A and B and so on in order;
    none where it offers no options."""
    seen, on_lines, marks = 0, True, ""
    letters: tuple[str, ...] = ()
    longest: tuple[str, ...] = ()
    for found in _OPTION.finditer(text, max(0, len(text) - OPTIONS_WITHIN)):
        number = ord(found["letter"].upper()) - ord("A")
        style = f"{found['letter'].isupper()}{found['mark']}"
        begins_line = found.start() == 0 or text[found.start() - 1] == "\n"
        if number == 0:
            seen, on_lines, marks, letters = 1, begins_line, style, (found["letter"],)
        elif number == seen and style == marks:
            seen, on_lines, letters = seen + 1, on_lines and begins_line, (*letters, found["letter"])
            if (seen >= LEAST_OPTIONS or on_lines) and seen > len(longest):
                longest = letters
    return longest
