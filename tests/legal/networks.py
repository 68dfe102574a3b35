"""Small networks at random: channels that devices like and some that they don't, chains, residual sums, joins."""

from __future__ import annotations

from random import Random

OPERATORS = (
    "Conv",
    "Conv",
    "Conv",
    "Relu",
    "Clip",
    "Add",
    "MaxPool",
    "Concat",
    "AveragePool",
    "Mul",
    "Sigmoid",
    "Softmax",
)


def network(random: Random) -> str:
    """ONNX text of one to nine nodes, for ``model_from_text`` of the test cases."""
    lines: list[str] = []
    weights: list[str] = []
    values = [("x", 16)]
    for k in range(random.randint(1, 9)):
        name, channels = values[-1] if random.random() < 0.6 else random.choice(values)
        op = random.choice(OPERATORS)
        made, out = f"t{k}", channels
        if op == "Conv":
            out = random.choice((16, 32, 24, 16))
            weights.append(f"float[{out},{channels},1,1] w{k}")
            if random.random() < 0.5:
                weights.append(f"float[{out}] b{k}")
                lines.append(f"{made} = Conv ({name}, w{k}, b{k})")
            else:
                lines.append(f"{made} = Conv ({name}, w{k})")
        elif op == "Clip":
            lines.append(f"{made} = Clip ({name}, low, high)")
        elif op in ("Add", "Mul", "Concat"):
            other = random.choice([v for v, c in values if c == channels])
            out = 2 * channels if op == "Concat" else channels
            lines.append(f"{made} = {op}{' <axis = 1>' if op == 'Concat' else ''} ({name}, {other})")
        elif op in ("MaxPool", "AveragePool"):
            lines.append(f"{made} = {op} <kernel_shape = [1, 1]> ({name})")
        else:
            lines.append(f"{made} = {op} ({name})")
        values.append((made, out))
    last, channels = values[-1]
    declared = ", ".join([*weights, "float low = {0}", "float high = {6}"])
    return f"g (float[1,16,4,4] x) => (float[1,{channels},4,4] {last}) <{declared}> {{\n" + "\n".join(lines) + "\n}"
