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


def gumbel(z):
    return math.exp(-math.exp(-z))


def sigmoid_term(z, y):
    return -log_sigmoid(z if y else -z)


def gumbel_term(z, y):
    return -math.log(gumbel(z) if y else 1 - gumbel(z))


def cross_entropy(logits, gt_classes):
    return sum(-math.log(softmax(z)[y]) for z, y in zip(logits, gt_classes)) / len(logits)


def eql(logits, gt_classes, rarity, excluding_function=True, kept=None, term=sigmoid_term):
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
            total += weight * term(z, y)
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


def focal(logits, gt_classes, alpha, gamma):
    """Eq. 5 of the focal loss paper, divided by the number of samples."""
    total = 0.0
    for row, gt_class in zip(logits, gt_classes):
        for j, z in enumerate(row):
            p = sigmoid(z)
            if j == gt_class:
                total -= alpha * (1 - p) ** gamma * math.log(p)
            else:
                total -= (1 - alpha) * p**gamma * math.log(1 - p)
    return total / len(logits)


def class_balanced(logits, gt_classes, instance_counts, beta):
    """Sigmoid cross entropy weighted by the inverse effective number of the sample's class."""
    effective_numbers = [sum(beta**i for i in range(n)) for n in instance_counts]
    weights = [1 / e for e in effective_numbers]
    weights = [w * len(weights) / sum(weights) for w in weights] + [1.0]
    total = 0.0
    for row, gt_class in zip(logits, gt_classes):
        for j, z in enumerate(row):
            total -= weights[gt_class] * log_sigmoid(z if j == gt_class else -z)
    return total / len(logits)


def eql_v2(logits, gt_classes, positive, negative, gamma, mu, alpha):
    """The loss, and the statistics (lists of K) after this step."""
    num_classes = len(positive)
    positive_after, negative_after = list(positive), list(negative)
    total = 0.0
    for row, gt_class in zip(logits, gt_classes):
        for j, z in enumerate(row):
            f = 1.0
            if j < num_classes:
                ratio = positive[j] / negative[j] if negative[j] else 100
                f = sigmoid(gamma * (ratio - mu))
            if j == gt_class:
                weight = 1 + alpha * (1 - f)
                total -= weight * log_sigmoid(z)
                if j < num_classes:
                    positive_after[j] += weight * (1 - sigmoid(z))
            else:
                weight = f
                total -= weight * log_sigmoid(-z)
                if j < num_classes:
                    negative_after[j] += weight * sigmoid(z)
    return total / len(logits), positive_after, negative_after


def equalized_focal(logits, gt_classes, positive, negative, alpha, gamma, scale, derivative):
    """
    The loss, and the statistics after this step; ``derivative(function, z)`` of a function of one
    number.
    """
    positive_after, negative_after = list(positive), list(negative)
    total = 0.0
    for row, gt_class in zip(logits, gt_classes):
        for j, z in enumerate(row):
            ratio = min(positive[j] / negative[j], 1) if negative[j] else 1
            gamma_j = gamma + scale * (1 - ratio)
            is_own = j == gt_class
            weight = (alpha if is_own else 1 - alpha) * gamma_j / gamma

            def term(z, sign=1 if is_own else -1, weight=weight, gamma_j=gamma_j):
                return -weight * sigmoid(-sign * z) ** gamma_j * log_sigmoid(sign * z)

            total += term(z)
            statistic = positive_after if is_own else negative_after
            statistic[j] += abs(derivative(term, z))
    return total / len(logits), positive_after, negative_after


def bags(logits, gt_classes, groups, drawn):
    """
    ``groups``: lists of classes. ``drawn[r][g]``: whether sample r is drawn as "others" of group g.
    Logits are classes, "others" of each group, foreground, background. Returns class loss and
    foreground / background loss.
    """
    num_classes = sum(len(group) for group in groups)
    class_loss = 0.0
    for g, group in enumerate(groups):
        losses = []
        for r, (row, gt_class) in enumerate(zip(logits, gt_classes)):
            if gt_class not in group and not drawn[r][g]:
                continue
            probabilities = softmax([row[num_classes + g]] + [row[j] for j in group])
            label = group.index(gt_class) + 1 if gt_class in group else 0
            losses.append(-math.log(probabilities[label]))
        class_loss += sum(losses) / max(len(losses), 1)
    objectness = [int(y == num_classes) for y in gt_classes]
    return class_loss, cross_entropy([row[-2:] for row in logits], objectness)


def federated(logits, gt_classes, classes):
    """Sigmoid cross entropy over the given classes, divided by the number of samples."""
    total = 0.0
    for row, gt_class in zip(logits, gt_classes):
        for j in classes:
            total -= log_sigmoid(row[j] if j == gt_class else -row[j])
    return total / len(logits)


def offset_softmax(logits, gt_classes, offsets):
    """Cross entropy of logits plus ``offsets(y)``, a list of a number for each column."""
    total = 0.0
    for row, y in zip(logits, gt_classes):
        total -= math.log(softmax([z + a for z, a in zip(row, offsets(y))])[y])
    return total / len(logits)


def softmax_eql_v2(logits, gt_classes, gradients, tau, floor):
    """The loss, and the gradients (a list of K) after this step; no ratio to a mean."""
    num_classes = len(gradients)
    after = list(gradients)
    clamped = [max(g, floor) for g in gradients]
    clamped.append(sum(clamped) / num_classes)
    total = 0.0
    for row, y in zip(logits, gt_classes):
        exponentials = [math.exp(z) * (g / clamped[y]) ** tau for z, g in zip(row, clamped)]
        p = exponentials[y] / sum(exponentials)
        total -= math.log(p)
        if y < num_classes:
            after[y] += 1 - p
    return total / len(logits), after


def equilibrium(logits, gt_classes, scores, momentum, background_score):
    """The loss, and the mean scores (a list of K) after this step."""
    num_classes = len(scores)
    own_scores = [[] for _ in scores]
    total = 0.0
    for row, y in zip(logits, gt_classes):
        exponentials = [m * math.exp(z) for m, z in zip([*scores, background_score], row)]
        total -= math.log(exponentials[y] / sum(exponentials))
        if y < num_classes:
            own_scores[y].append(softmax(row)[y])
    after = []
    for m, p in zip(scores, own_scores):
        kept = momentum ** len(p)
        after.append(kept * m + (1 - kept) * sum(p) / len(p) if p else m)
    return total / len(logits), after


def balanced_sigmoid(logits, gt_classes, frequencies):
    """Logits of foreground rows less the log odds of each class; background rows as they are."""
    num_classes = len(frequencies)
    total = 0.0
    for row, y in zip(logits, gt_classes):
        for j, (z, f) in enumerate(zip(row, frequencies)):
            if y < num_classes:
                z -= math.log((1 - f) / f)
            total -= log_sigmoid(z if j == y else -z)
    return total / len(logits)


def drop_loss(logits, gt_classes, rare, beta, term=sigmoid_term):
    """``beta[r][j]`` is the draw for sample r and class j."""
    num_classes = len(rare)
    total = 0.0
    for r, (row, y) in enumerate(zip(logits, gt_classes)):
        for j, z in enumerate(row):
            if j == y or not rare[j] or (y == num_classes and beta[r][j]):
                total += term(z, j == y)
    return total / len(logits)


def acsl(logits, gt_classes, groups, counted, threshold):
    """
    ``groups``: 0, 1, 2 for rare, common, frequent of each class. ``counted[r][g]``: whether
    background sample r is drawn for group g.
    """
    num_classes = len(groups)
    total = 0.0
    for r, (row, y) in enumerate(zip(logits, gt_classes)):
        for j, z in enumerate(row):
            if j == y:
                total -= log_sigmoid(z)
            elif counted[r][groups[j]] if y == num_classes else sigmoid(z) >= threshold:
                total -= log_sigmoid(-z)
    return total / len(logits)


def fcbl(logits, gt_classes, sums, samples, alpha, threshold):
    """The loss, and the statistics (K lists of K, and a list of K) after this step."""
    num_classes = len(samples)
    sums_after, samples_after = [list(row) for row in sums], list(samples)

    def confusion(i, j):
        return max(sums[i][j] / max(samples[i], 1), 1e-3)

    total = 0.0
    for row, y in zip(logits, gt_classes):
        scores = [sigmoid(z) * (1 - sigmoid(row[-1])) for z in row[:-1]]
        for j, z in enumerate(row):
            if num_classes not in (y, j):
                if scores[j] < scores[y] and scores[j] < threshold:
                    continue
                z += alpha * math.log(confusion(y, j) / confusion(j, y))
            total -= log_sigmoid(z if j == y else -z)
        if y < num_classes:
            samples_after[y] += 1
            sums_after[y] = [s + p for s, p in zip(sums_after[y], softmax(row[:-1]))]
    return total / len(logits), sums_after, samples_after


def reweighted_cross_entropy(logits, gt_classes, counts, rho):
    """Weighted mean of cross entropies; background has weight 1."""
    weights = [max(n, 1) ** -rho for n in counts]
    weights = [w * len(counts) / sum(weights) for w in weights] + [1.0]
    terms = [-weights[y] * math.log(softmax(row)[y]) for row, y in zip(logits, gt_classes)]
    return sum(terms) / sum(weights[y] for y in gt_classes)


def pcb(logits, gt_classes, confusion, samples, steps, alpha, momentum):
    """The loss, and the statistics (K lists of K, a list of K, a number) after this step."""
    num_classes = len(samples)
    total = 0.0
    for row, y in zip(logits, gt_classes):
        log_p = [math.log(p) for p in softmax(row)]
        if y == num_classes:
            total -= log_p[y]
            continue
        taken_for_y = sum(confusion[k][y] for k in range(num_classes))
        balanced = sum(confusion[k][y] / taken_for_y * log_p[k] for k in range(num_classes))
        total -= (1 - alpha) * log_p[y] + alpha * balanced
    after, samples_after = [], []
    for c in range(num_classes):
        rows = [softmax(row[:num_classes]) for row, y in zip(logits, gt_classes) if y == c]
        samples_after.append(samples[c] + len(rows))
        means = [sum(column) / len(rows) for column in zip(*rows)]
        kept = momentum if samples[c] else 0.0
        mixed = [kept * m + (1 - kept) * p for m, p in zip(confusion[c], means)]
        after.append(mixed if rows else confusion[c])
    steps += samples_after != samples
    return total / len(logits), after, samples_after, steps


def ecm(logits, gt_classes, counts):
    """As the released code: a quotient of exponentials. ``counts`` has background's as its last."""
    n_all = sum(counts)
    total = 0.0
    for row, y in zip(logits, gt_classes):
        for j, z in enumerate(row):
            n, rest = counts[j], n_all - counts[j]
            both = n**0.25 + rest**0.25
            positive = math.exp(z + math.log(both / rest**0.25))
            negative = math.exp(-z + math.log(both / n**0.25))
            p = (positive if j == y else negative) / (positive + negative)
            a = rest / n
            total -= a * math.log((1 + a) / a) * math.log(p)
    return total / len(logits)
