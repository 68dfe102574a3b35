"""Is a condition true of a match, and if not, why?"""

from __future__ import annotations

from potc.language.expression import ExpressionError, UnknownValue, describe
from potc.language.syntax import Expr
from potc.match.environment import MatchEnvironment, compiled


def is_true(condition: Expr, environment: MatchEnvironment) -> bool:
    """What can't be known or computed is not true."""
    try:
        return bool(compiled(condition)(environment))
    except ExpressionError:
        return False


def why_not(condition: Expr, environment: MatchEnvironment) -> str:
    """Why a condition is not true, in words; empty if it is."""
    try:
        return "" if compiled(condition)(environment) else describe(condition, environment)
    except UnknownValue as unknown:
        return f"{unknown} is unknown"
    except ExpressionError as error:
        return str(error)
