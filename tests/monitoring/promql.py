"""Which labels the result of an expression has; what asks for others is wrong.

An expression that names a metric nobody exports, or a label it does not have, is no error for Prometheus: it
is empty for ever, and an alert that never fires looks like one that has no reason to.
"""

from collections.abc import Collection, Mapping

import promql_parser as p

Labels = frozenset[str]


class Unknown(Exception):
    """A metric or a label that does not exist."""


def labels_of(expression: str, series: Mapping[str, Labels]) -> Labels:
    """The labels of an expression's result.

    Args:
        series: those there are, with their labels.

    Raises:
        ValueError: it is not an expression.
        Unknown: it asks for what does not exist.
    """
    return _labels(p.parse(expression), series)


def _labels(node: p.Expr, series: Mapping[str, Labels]) -> Labels:
    match node:
        case p.VectorSelector():
            return _selected(node, series)
        case p.MatrixSelector():
            return _selected(node.vector_selector, series)
        case p.ParenExpr() | p.UnaryExpr() | p.SubqueryExpr():
            return _labels(node.expr, series)
        case p.NumberLiteral() | p.StringLiteral():
            return Labels()
        case p.AggregateExpr():
            return _aggregated(node, _labels(node.expr, series))
        case p.Call():
            return _called(node.func.name, [_labels(each, series) for each in node.args])
        case p.BinaryExpr():
            return _combined(node, _labels(node.lhs, series), _labels(node.rhs, series))
    raise TypeError(f"no kind of expression that is known: {type(node).__name__}")


def _selected(node: p.VectorSelector, series: Mapping[str, Labels]) -> Labels:
    if node.name not in series:
        raise Unknown(f"metric {node.name}")
    wanted = [*node.matchers.matchers, *(each for some in node.matchers.or_matchers for each in some)]
    _has(series[node.name], [matcher.name for matcher in wanted])
    return series[node.name]


def _aggregated(node: p.AggregateExpr, inner: Labels) -> Labels:
    if node.modifier is None:
        return inner if str(node.op) in ("topk", "bottomk") else Labels()
    named = Labels(node.modifier.labels)
    _has(inner, named)
    return named if node.modifier.type == p.AggModifierType.By else inner - named


def _called(function: str, arguments: list[Labels]) -> Labels:
    labels = Labels().union(*arguments)
    if function == "histogram_quantile":
        _has(labels, ["le"])
        return labels - {"le"}
    return Labels() if function in ("vector", "scalar", "time") else labels


def _combined(node: p.BinaryExpr, left: Labels, right: Labels) -> Labels:
    if node.modifier is not None and node.modifier.matching is not None:
        _has(left, node.modifier.matching.labels)
        _has(right, node.modifier.matching.labels)
    elif left and right and str(node.op) != "or" and left != right:
        raise Unknown(f"both sides of {node.op} have the same labels: {sorted(left)}, {sorted(right)}")
    return left or right


def _has(labels: Labels, wanted: Collection[str]) -> None:
    if missing := set(wanted) - labels:
        raise Unknown(f"label {', '.join(sorted(missing))} of {sorted(labels)}")
