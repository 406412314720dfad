"""Accidents that happen to words of a command line."""


def mutated(line, rng, pieces, lines):
    """A line with up to three accidents."""
    words = line.split(" ")
    for _ in range(rng.randint(1, 3)):
        k = rng.randrange(len(words) + 1)
        kind = rng.randrange(6)
        if kind == 0:
            words.insert(k, rng.choice(pieces))
        elif kind == 1 and k < len(words):
            del words[k]
        elif kind == 2 and k < len(words):
            words.insert(rng.randrange(len(words)), words.pop(k))
        elif kind == 3 and k < len(words):
            at = rng.randrange(len(words[k]) + 1)
            words[k] = words[k][:at] + rng.choice(pieces) + words[k][at:]
        elif kind == 4 and k < len(words):
            at = rng.randrange(len(words[k]) + 1)
            words[k] = words[k][:at] + words[k][at + 1 :]
        else:
            words += rng.choice(lines).split(" ")[:k]
    return words or [pieces[0]]
