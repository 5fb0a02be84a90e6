"""Rates, their bounds and tables, from what the draws of the calibration found.

``python -m tests.calibration`` and the short form in `tests/test_calibration.py` take rates from
here. It knows the names of rows and counts, and nothing of data or networks.
"""

from collections import defaultdict

import numpy as np
from scipy.stats import beta


class Rate:
    """A mean over draws, with its one-sided upper 95 % bound.

    Parameters
    ----------
    values : array-like of shape (n_draws,)
        Truth values, whose bound is exact (Clopper and Pearson); or shares, whose bound is normal,
        but for shares that are all 0, of which no spread is known.
    """

    def __init__(self, values):
        values = np.asarray(values)
        n, self.mean = len(values), float(values.mean())
        if values.dtype == bool or not values.any():
            hits = int(np.count_nonzero(values))
            self.upper = float(beta.ppf(0.95, hits + 1, n - hits)) if hits < n else 1.0
        else:
            spread = float(values.std(ddof=1)) if n > 1 else 1.0
            self.upper = min(1.0, self.mean + 1.645 * spread / n**0.5)

    def __str__(self):
        return f"{_short(self.mean)} ({_short(self.upper)})"


def _short(value):
    return f"{value:.3f}".lstrip("0") if value < 0.9995 else "1"


class Counts:
    """What one test found in all draws of a row: hits where something is, and false ones.

    Parameters
    ----------
    pairs : list of (int, int)
        Of each draw the number found where something is, and where nothing is.
    n_signal : int
        How many cells there are where something is.
    """

    def __init__(self, pairs, n_signal):
        self.hits, self.false = np.array(pairs).T
        self.n_signal = n_signal

    @property
    def family_wise(self):
        """How often at least one cell is false."""
        return Rate(self.false > 0)

    @property
    def discoveries(self):
        """The mean share of false cells among those found, 0 where none was found."""
        return Rate(self.false / np.maximum(self.hits + self.false, 1))

    @property
    def power(self):
        """The mean share of true cells that was found."""
        return float((self.hits / max(self.n_signal, 1)).mean())


def best_level(records):
    """Return the counts at the threshold that has the best F-measure, known with hindsight."""
    levels = np.array([record["levels"] for record in records])  # (n_draws, 2, n_levels)
    (hits, false), n_signal = levels.sum(axis=0), records[0]["n_signal"]
    best = int(np.argmax(2 * hits / (len(records) * n_signal + hits + false)))
    return Counts(levels[:, :, best], n_signal)


def group(found):
    """Return the records of rows, ``{table: {labels: {variant: [record of each draw]}}}``."""
    tables = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for (row, _), variants in sorted(found.items()):
        table, labels = row.split("/", 1)
        for variant, record in variants.items():
            tables[table][labels][variant].append(record)
    return tables


def take(records, test):
    """Return the counts of a test; a draw that was refused found nothing."""
    return Counts([record.get(test, (0, 0)) for record in records], records[0]["n_signal"])


def lay_out(head, rows):
    """Return a table as markdown; its head are names between commas."""
    names = head.split(", ")
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def mean_of(records, key):
    return _short(np.mean([record[key] for record in records]))


def verdict_of(record):
    """Return the verdict of a draw, "refused" where there were too few units to permute."""
    return record.get("verdict", "refused")


def either_sign(records):
    """Return how often a cell without signal is called true or misleading."""
    false = [sum(r.get(sign, (0, 0))[1] for sign in ("true", "misleading")) for r in records]
    return Rate(np.array(false) > 0)


def table_planted(rows):
    """Return the table of correlation lengths and architectures."""
    of_length, of_network = defaultdict(list), defaultdict(list)
    for labels, variants in rows.items():
        length, name = labels.split("/")
        of_length[length, "all"] += variants[""]
        of_network["all", name] += variants[""]
    everything = of_length | of_network
    lines = [_line_planted(*labels.split("/"), rows[labels][""]) for labels in rows]
    lines += [_line_planted(*labels, records) for labels, records in everything.items()]
    return lay_out(
        "length, network, draws, accuracy, FWER `true`, FWER either sign, FDR `true_fdr`, "
        "power `true`, t test (maxT), power `true_fdr`, t test (BH)",
        lines,
    )


def _line_planted(length, name, records):
    tests = [take(records, test) for test in ("true", "t", "true_fdr", "t_fdr")]
    line = [length, name, len(records), mean_of(records, "accuracy"), tests[0].family_wise]
    line += [either_sign(records), tests[2].discoveries]
    return line + [_short(test.power) for test in tests]


def table_none(rows):
    """Return the table of labels without relation."""
    lines = []
    for labels, variants in rows.items():
        records = variants[""]
        tests = [take(records, test) for test in ("true", "true_fdr", "relevance_fdr")]
        line = [*labels.split("/"), len(records), tests[0].family_wise, either_sign(records)]
        line += [tests[1].family_wise, Rate([r["p_skill"] <= 0.05 for r in records])]
        lines.append([*line, tests[2].family_wise])
    return lay_out(
        "length, network, draws, FWER `true`, FWER either sign, any in `true_fdr`, "
        "`p_skill` ≤ .05, BH on relevance",
        lines,
    )


def table_series(rows):
    """Return the table of serial correlation and rules of exchange."""
    lines = []
    for labels, variants in rows.items():
        for rule, records in variants.items():
            true, fdr = (take(records, test) for test in ("true", "true_fdr"))
            asked = [r for r in records if "refused" not in r]
            block = int(np.median([r["block_length"] for r in asked])) if asked else ""
            line = [labels, rule, len(records), len(records) - len(asked), block]
            line += [true.family_wise, either_sign(asked or records), fdr.discoveries]
            lines.append([*line, _short(true.power), _short(fdr.power)])
    return lay_out(
        "ρ, exchanged, draws, refused, block (median), FWER `true`, FWER either sign, "
        "FDR `true_fdr`, power `true`, power `true_fdr`",
        lines,
    )


def table_kinds(rows):
    """Return the table of kinds of data."""
    lines = []
    for labels, variants in rows.items():
        records = variants[""]
        true, fdr = (take(records, test) for test in ("true", "true_fdr"))
        place = Rate([any(r["places"].values()) for r in records])
        t, t_fdr = (
            _short(take(records, test).power) if test in records[0] else ""
            for test in ("t", "t_fdr")
        )
        line = [labels, len(records), true.family_wise, place if records[0]["places"] else ""]
        line += [fdr.discoveries, _short(true.power), t, _short(fdr.power), t_fdr]
        lines.append(line)
    return lay_out(
        "data, draws, FWER `true`, in the suppressor or watermark, FDR `true_fdr`, power `true`, "
        "t test (maxT), power `true_fdr`, t test (BH)",
        lines,
    )


def table_sizes(rows):
    """Return the table of numbers of held-out samples."""
    lines = []
    for name, variants in rows.items():
        most = [verdict_of(record) for record in variants[max(variants, key=int)]]
        for n_samples, records in variants.items():
            true, fdr = (take(records, test) for test in ("true", "true_fdr"))
            verdicts = [verdict_of(record) for record in records]
            same = np.mean([one == other for one, other in zip(verdicts, most, strict=True)])
            line = [name, n_samples, len(records), verdicts.count("refused")]
            line += [
                true.family_wise,
                fdr.discoveries,
                _short(true.power),
                _short(fdr.power),
                _short(same),
            ]
            lines.append([*line, _short(verdicts.count("fact") / len(verdicts))])
    return lay_out(
        "network, held out, draws, refused, FWER `true`, FDR `true_fdr`, power `true`, "
        "power `true_fdr`, verdict as of most, verdict *fact*",
        lines,
    )


def table_states(rows):
    """Return the table of random states."""
    lines = []
    for name, variants in rows.items():
        draws = list(zip(*variants.values(), strict=True))
        same = np.mean([len({verdict_of(record) for record in draw}) == 1 for draw in draws])
        found = np.array([[record["true"][0] for record in draw] for draw in draws])
        spread = found.std(axis=1, ddof=1).mean()
        lines.append([name, len(draws), _short(same), f"{found.mean():.1f}", f"{spread:.1f}"])
    return lay_out("network, draws, same verdict, true cells found, spread over states", lines)


def table_used(rows):
    """Return the table of what few samples find of the cells that many show."""
    lines = []
    for labels, variants in rows.items():
        few, many = variants["100"], variants["1000"]
        powers = [take(records, "true").power for records in (few, many)]
        against = np.mean([r["misleading"][0] / r["n_signal"] for r in many])
        t = take(few, "t").power
        line = [*labels.split("/"), len(few), *(take(r, "true").family_wise for r in (few, many))]
        line += [_short(powers[1]), _short(against)]
        lines.append([*line, *(_short(p) for p in (powers[0], t, powers[0] / (powers[1] * t)))])
    return lay_out(
        "length, network, draws, FWER of 100 samples, FWER of 1000, true of 1000, "
        "misleading of 1000, true of 100, "
        "t test of 100, ratio",
        lines,
    )


def table_beside(tables):
    """Return the table of `skill_map` and others on the same draws."""
    lines = []
    for table in ("planted", "kinds"):
        for labels, variants in tables[table].items():
            records = variants[""]
            if "levels" not in records[0]:
                continue
            tests = [take(records, test) for test in ("true", "true_fdr", "relevance_fdr")]
            line = [labels.replace("/", " cells, ")]
            for test in (*tests[:2], best_level(records), tests[2]):
                rates = test.family_wise.mean, test.discoveries.mean, test.power
                line.append(" / ".join(map(_short, rates)))
            lines.append(line)
    return lay_out("data, `true`, `true_fdr`, best threshold, BH on relevance", lines)


TITLES = {
    "planted": ("A planted patch", table_planted),
    "none": ("No relation at all", table_none),
    "series": ("Samples in order of time", table_series),
    "kinds": ("Other kinds of data", table_kinds),
    "sizes": ("How many samples", table_sizes),
    "states": ("How stable", table_states),
    "used": ("What networks use", table_used),
}


def write_tables(found):
    """Return all tables as markdown, of draws by row and number.

    Parameters
    ----------
    found : dict
        What each draw found, by row and number.
    """
    tables = group(found)
    parts = [
        f"### {title}\n\n{make(tables[name])}"
        for name, (title, make) in TITLES.items()
        if name in tables
    ]
    if {"planted", "kinds"} & set(tables):
        parts.append(f"### Beside other ways\n\n{table_beside(tables)}")
    return "\n".join(parts)
