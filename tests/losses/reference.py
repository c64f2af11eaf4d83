"""Slow forms of the papers' equations: plain Python, one proposal and one class at a time."""

import math


def softmax(logits):
    largest = max(logits)
    exponentials = [math.exp(z - largest) for z in logits]
    return [e / sum(exponentials) for e in exponentials]


def sigmoid(z):
    return 1 / (1 + math.exp(-z)) if z >= 0 else math.exp(z) / (1 + math.exp(z))


def log_sigmoid(z):
    return min(z, 0) - math.log1p(math.exp(-abs(z)))


def cross_entropy(logits, gt_classes):
    return sum(-math.log(softmax(z)[y]) for z, y in zip(logits, gt_classes)) / len(logits)


def eql(logits, gt_classes, rarity, excluding_function=True, kept=None):
    """E eq. 6 and 7, divided by the number of proposals."""
    num_classes = len(rarity)
    total = 0.0
    for r, (row, gt_class) in enumerate(zip(logits, gt_classes)):
        is_foreground = gt_class < num_classes
        e = 1 if is_foreground or not excluding_function else 0
        for j, z in enumerate(row):
            y = 1 if gt_class == j else 0
            weight = 1 - e * rarity[j] * (1 - y)
            if kept is not None and kept[r][j]:
                weight = 1
            total -= weight * (log_sigmoid(z) if y else log_sigmoid(-z))
    return total / len(logits)


def softmax_eql(logits, gt_classes, protected, beta):
    """E eq. 9 to 11; ``beta[r][k]`` is the draw for proposal r and class k."""
    total = 0.0
    for r, (row, gt_class) in enumerate(zip(logits, gt_classes)):
        denominator = 0.0
        for k, z in enumerate(row):
            y = 1 if gt_class == k else 0
            denominator += (1 - beta[r][k] * protected[k] * (1 - y)) * math.exp(z)
        total -= math.log(math.exp(row[gt_class]) / denominator)
    return total / len(logits)


def seesaw(logits, gt_classes, counts, p, q, eps):
    """S eq. 4 to 8 over the foreground rows of K-class logits, divided by all rows."""
    num_classes = len(counts)
    total = 0.0
    for row, i in zip(logits, gt_classes):
        if i == num_classes:
            continue
        sigma = softmax(row)
        denominator = math.exp(row[i])
        for j in range(num_classes):
            if j == i:
                continue
            n_i, n_j = max(counts[i], 1), max(counts[j], 1)
            mitigation = 1.0 if n_i <= n_j else (n_j / n_i) ** p
            ratio = sigma[j] / max(sigma[i], eps)
            compensation = 1.0 if ratio <= 1 else ratio**q
            denominator += mitigation * compensation * math.exp(row[j])
        total -= math.log(math.exp(row[i]) / denominator)
    return total / len(logits)
