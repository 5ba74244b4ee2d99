"""A text of SQL reduced to its own tokens: no comments, no literals, no quoted names. Pure.

Sources: PostgreSQL documentation, 4.1 (lexical structure); MySQL reference manual, 11.1 (literals),
11.4 (user variables) and 11.7 (comments); MariaDB documentation, "Comment Syntax".
"""

import re
from functools import cache

NESTING = 5
"""Levels of PostgreSQL's nested comments that are seen through; deeper text counts as SQL."""

SPACE = r"[ \t\n\r\f\v]+"
"""ASCII only: to the servers, other spaces are letters of a name."""

HIGH = r"\u0080-\U0010ffff"
WORD = rf"[A-Za-z_{HIGH}][\w${HIGH}]*+|\d[\w.]*+"
QUOTES = "'\"`$"


def outline(sql: str, dialect: str) -> str:
    """Return the tokens of `sql` in lower case, each followed by one space, between semicolons.

    A literal or quoted name is its opening quote alone: `SELECT 'a', "b"` gives
    "; select ' , \\" ; ". What MySQL executes in `/*! ... */` follows a token `/*!`. The bodies of
    CREATE FUNCTION and its like are left out, since they do not run now.
    """
    tokens = _tokens(dialect).finditer(sql)
    text = " ".join([_shown(token) for match in tokens if (token := match[1])])
    return _definition().sub("definition ", f"; {text} ; ")


def _shown(token: str) -> str:
    if token[0] in QUOTES:
        return token[0]
    if token[1:2] == "'":  # E'...'
        return "'"
    return "/*!" if token.startswith("/*") else token.lower()


@cache
def _tokens(dialect: str) -> re.Pattern[str]:
    """Return the tokenizer, whose group 1 is a token; compiled when a statement needs it."""
    noise, token = _postgresql() if dialect == "postgresql" else _mysql(dialect)
    return re.compile(rf"(?:{SPACE}|{noise})*+({token}|{WORD}|.|\Z)", re.ASCII | re.DOTALL)


def _postgresql() -> tuple[str, str]:
    inner = r"[^*/]|\*(?!/)|/(?!\*)"
    comment = rf"/\*(?:{inner})*+\*/"
    for _ in range(NESTING):
        comment = rf"/\*(?:{inner}|{comment})*+\*/"
    noise = rf"--[^\n\r]*|{comment}"
    literal, escaped, name = _quoted("'"), _quoted("'", escapes=True), _quoted('"')
    dollars = rf"\$((?:[A-Za-z_{HIGH}][\w{HIGH}]*)?)\$.*?(?:\$\2\$|\Z)|\$\d+"
    return noise, f"{literal}|[eE]{escaped}|{name}|{dollars}"


def _mysql(dialect: str) -> tuple[str, str]:
    executed = r"/\*M?!" if dialect == "mariadb" else r"/\*!"
    comment = rf"(?!{executed})/\*(?:[^*]|\*(?!/))*+(?:\*/|\Z)|\*/"
    account = r"(?<=[\w'\"`])@(?!@)"  # user@host is no user variable
    noise = rf"#[^\n]*|--(?=\s|\Z)[^\n]*|{comment}|{account}"
    single, double = _quoted("'", escapes=True), _quoted('"', escapes=True)
    return noise, rf"{executed}(?:\d{{5,6}})?|{single}|{double}|{_quoted('`')}|@@|:="


def _quoted(quote: str, *, escapes: bool = False) -> str:
    """Return a pattern of what stands in `quote`; without a closing one, all to the end."""
    inside = rf"[^{quote}\\]|\\." if escapes else rf"[^{quote}]"
    return rf"{quote}(?:{inside}|{quote}{quote})*+(?:{quote}|\Z)"


@cache
def _definition() -> re.Pattern[str]:
    """Return a pattern of what defines a routine in an outline; from BEGIN on, all to the end."""
    head = r"(?:or (?:replace|alter) )?(?:definer = (?:\S+ ){1,3}?)?(?:aggregate |constraint )?"
    kind = r"(?:function|procedure|trigger|event|package|rule) "
    body = r"(?:(?!\bbegin )[^;])*+(?:begin .*)?"
    return re.compile(rf"(?<=; )(?:create|alter) {head}{kind}{body}", re.DOTALL)
