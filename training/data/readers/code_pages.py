"""Guesses the code page of the names in an old zip, from all of them together. Reads no files.

Zip writers of Windows and DOS stored names in the code page of the machine, and did not say which. Each pair of a language and
a code page is a model of how probable a name is, and the most probable pair wins. Detectors for whole pages need more text than
a few short label names.
"""

import math
import unicodedata
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

MAX_NAMES = 2_000  # enough for a guess; the most that it looks at
_RARE = math.log(1e-6)  # of a character that a language does not use
_ASCII = math.log(1 / 40)
_CAPITAL = math.log(0.3)  # of a capital at the start of a word, or in a word of capitals
_ODD_CAPITAL = math.log(0.003)  # of a capital after a small letter
_MIXED_SCRIPTS = math.log(0.02)  # of an ASCII letter next to a letter of another script
_UNLIKELY_PAGE = math.log(0.05)  # of a page that the system which wrote the archive hardly uses

# The letters of a language that are not ASCII, the frequent ones repeated; its code pages: DOS (OEM) and others.
_ALPHABETS: dict[str, tuple[str, str, str]] = {
    "German": ("äääööüüüß", "cp437 cp850", "cp1252"),
    "French": ("éééééééèèêçàâîôûëïùœ", "cp437 cp850", "cp1252"),
    "Spanish": ("áááéíííóóóúññü", "cp437 cp850", "cp1252"),
    "Portuguese": ("ããããçççáááééíóóêâôõúà", "cp850", "cp1252"),
    "Italian": ("ààèéìòùù", "cp437 cp850", "cp1252"),
    "Swedish and Finnish": ("ääääåååööö", "cp437 cp850", "cp1252"),
    "Danish and Norwegian": ("æøøåå", "cp850 cp865", "cp1252"),
    "Icelandic": ("ððþæáéíóúýö", "cp850 cp861", "cp1252"),
    "Polish": ("ąąęęłłłóóśśżżćńź", "cp852", "cp1250 iso8859_2"),
    "Czech and Slovak": ("ááááííííééččřřšššžžžýýěěůúťďňľĺôäóŕ", "cp852", "cp1250 iso8859_2"),
    "Hungarian": ("ááááéééééöööóóőőüűúí", "cp852", "cp1250 iso8859_2"),
    "Romanian": ("ăăăăâîîşşşţţ", "cp852", "cp1250 iso8859_2"),
    "Croatian and Slovenian": ("čččšššžžžćđ", "cp852", "cp1250 iso8859_2"),
    "Turkish": ("ııııüüüşşşççğğöö", "cp857", "cp1254"),
    "Russian and Bulgarian": (
        "ооооооаааааааееееееиииииннннннттттттссссрррррввввлллллккккккммммддпппуяыьъгзбчйхжшюцщэфё",
        "cp866",
        "cp1251 koi8_r",
    ),
    "Ukrainian": ("ооооааааннннииііііввттттееерррссккккллддммууппзязьбгчйхцшюжїєщфґ", "cp1125", "cp1251 koi8_u"),
    "Greek": ("αααααααάοοοοόιιιίεεέεητττσσσςννννηηήρρρπππκκκυυύλλμμωώδγχθφβξζψ", "cp737", "cp1253"),
    "Hebrew": ("יייייווווווההההללללאאאררררתתתתבבבמממםששנןקדפעחטכךגסזצץף", "cp862", "cp1255"),
    "Arabic": ("اااااااالللللييييمممننننرررروووتتتتبببةةةةعدسفقهحكجشصطخذزضغثظءأإآؤئى", "cp720", "cp1256"),
    "Thai": ("".join(map(chr, (*range(0xE01, 0xE3B), *range(0xE40, 0xE4F)))), "cp874", "cp874"),
}
# Chinese, Japanese and Korean: the first byte of a character says whether it is common. Page -> (first bytes, the smallest
# second byte, share of all text, number of such characters).
_CLASSES: dict[str, tuple[tuple[range, int, float, int], ...]] = {
    "gbk": ((range(0xB0, 0xD8), 0xA1, 0.9, 3755), (range(0xD8, 0xF8), 0xA1, 0.05, 3008), (range(0xA1, 0xA4), 0xA1, 0.02, 282)),
    "big5": ((range(0xA4, 0xC7), 0x40, 0.92, 5401), (range(0xC9, 0xFA), 0x40, 0.05, 7652)),
    "cp932": (
        (range(0x82, 0x83), 0x9F, 0.3, 83),  # hiragana
        (range(0x83, 0x84), 0x40, 0.25, 86),  # katakana
        (range(0x88, 0x98), 0x40, 0.38, 2965),
        (range(0x98, 0xEB), 0x40, 0.02, 3390),
        (range(0x81, 0x83), 0x40, 0.03, 200),  # the long vowel mark, and wide letters
    ),
    "cp949": ((range(0xCA, 0xFE), 0xA1, 0.001, 4888),),  # Chinese characters; syllables are below
}
# How often Korean syllables have each initial, vowel and final, by the number in Unicode's order.
_INITIALS = dict(
    zip((0, 2, 3, 5, 6, 7, 9, 11, 12, 14, 15, 16, 17, 18), (14, 6, 8, 7, 7, 6, 11, 18, 9, 4, 3, 3, 3, 7), strict=True)
)
_VOWELS = dict(zip((0, 1, 4, 5, 6, 8, 9, 11, 12, 13, 18, 20), (21, 6, 10, 3, 5, 13, 2, 2, 2, 9, 8, 18), strict=True))
_FINALS = dict(zip((0, 1, 4, 7, 8, 16, 17, 19, 20, 21), (52, 8, 11, 1, 8, 5, 2, 3, 1, 9), strict=True))


@dataclass(frozen=True)
class Guess:
    """A code page, and whether another one, which gives other names, is nearly as probable."""

    code_page: str
    uncertain: bool


def guess_code_page(names: Collection[bytes], from_dos: bool) -> Guess:
    """The most probable code page of names that are not all ASCII.

    Args:
        names: the names of files and folders, without their paths.
        from_dos: whether DOS or Windows wrote them; then a DOS code page is far more probable.
    """
    sample = sorted({name for name in names if not name.isascii()})[:MAX_NAMES]
    if not sample or _is_utf8(sample):
        return Guess("utf-8", False)
    scores: dict[str, float] = {}
    for page, is_dos, probability in _models():
        try:
            score = sum(probability(name.decode(page)) for name in sample)
        except UnicodeDecodeError:
            continue
        scores[page] = max(scores.get(page, -math.inf), score + (_UNLIKELY_PAGE if from_dos and not is_dos else 0))
    if not scores:
        return Guess("cp437", True)
    best, *others = sorted(scores, key=lambda page: -scores[page])
    decoded = [name.decode(best) for name in sample]
    rival = next((page for page in others if [name.decode(page) for name in sample] != decoded), None)
    return Guess(best, rival is not None and scores[best] - scores[rival] < 3)


def _is_utf8(names: list[bytes]) -> bool:
    """Whether names are UTF-8: all of them; a few damaged ones among many do not count."""
    n_valid = 0
    for name in names:
        try:
            name.decode("utf-8")
            n_valid += 1
        except UnicodeDecodeError:
            pass
    return n_valid == len(names) or (n_valid >= 10 and n_valid > 0.9 * len(names))


@cache
def _models() -> list[tuple[str, bool, Callable[[str], float]]]:
    """(code page, whether DOS used it, log probability of a name) for each language and code page."""
    models: list[tuple[str, bool, Callable[[str], float]]] = [(page, True, _asian(page)) for page in _CLASSES]
    for alphabet, dos_pages, other_pages in _ALPHABETS.values():
        probability = _alphabetic(alphabet)
        models += [(page, True, probability) for page in dos_pages.split()]
        models += [(page, False, probability) for page in other_pages.split()]
    return models


def _alphabetic(alphabet: str) -> Callable[[str], float]:
    counts = {letter: alphabet.count(letter) for letter in alphabet}
    letters = {letter: math.log(0.98 * count / len(alphabet)) for letter, count in counts.items()}

    is_latin = "LATIN" in unicodedata.name(alphabet[0])

    def probability(name: str) -> float:
        total, previous = 0.0 if is_latin else _mixtures(name), " "
        for character in name:
            if character.isascii():
                total += _ASCII
            else:
                total += letters.get(character.lower(), _RARE)
                if character.isupper():
                    total += _ODD_CAPITAL if previous.islower() else _CAPITAL
            previous = character
        return total

    return probability


def _asian(page: str) -> Callable[[str], float]:
    def probability(name: str) -> float:
        characters = (_ASCII if character.isascii() else _asian_character(character, page) for character in name)
        return sum(characters, _mixtures(name))

    return probability


def _mixtures(name: str) -> float:
    """The log probability of the places where an ASCII letter is next to another one."""
    return _MIXED_SCRIPTS * sum(a.isalpha() and b.isalpha() and a.isascii() != b.isascii() for a, b in pairwise(name))


@cache
def _asian_character(character: str, page: str) -> float:
    """The log probability of a character in a text of the language of a code page."""
    encoded = character.encode(page, "replace")
    if page == "cp949" and 0xAC00 <= ord(character) <= 0xD7A3:
        index = ord(character) - 0xAC00
        initial, vowel, final = index // 588, index % 588 // 28, index % 28
        parts = _INITIALS.get(initial, 0.7), _VOWELS.get(vowel, 0.5), _FINALS.get(final, 0.05)
        return sum(math.log(part / 100) for part in parts)
    if len(encoded) == 2 and unicodedata.category(character) != "Co":  # not in private use
        for first_bytes, second_byte, share, count in _CLASSES[page]:
            if encoded[0] in first_bytes and encoded[1] >= second_byte:
                return math.log(share / count)
    return 2 * _RARE
