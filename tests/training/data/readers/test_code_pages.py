"""The code page of old names: the right one for short label names of many languages, and doubt where it is due."""

import pytest

from graft.training.data.readers.code_pages import Guess, guess_code_page

LABELS = {
    "cp437": ["Vögel", "Käfer", "Blüte", "Äpfel"],
    "cp850": ["cão", "pássaro", "caminhão", "leão"],
    "cp852": ["kočka", "květina", "růže", "myš"],
    "cp857": ["köpek", "kuş", "çiçek", "ağaç"],
    "cp737": ["γάτα", "σκύλος", "πουλί", "δέντρο"],
    "cp862": ["חתול", "כלב", "ציפור", "פרח"],
    "cp866": ["кошка", "собака", "птица", "цветок"],
    "cp874": ["แมว", "หมา", "ดอกไม้", "กุหลาบ", "ต้นไม้"],
    "cp932": ["いぬ", "ねこ", "りんご", "富士山"],
    "gbk": ["猫", "狗", "玫瑰", "向日葵"],
    "big5": ["鳥", "樹", "汽車", "向日葵", "老虎", "蘋果"],
    "cp949": ["고양이", "강아지", "나무", "장미"],
}
OTHER_LABELS = {
    "cp1250": ["łąka", "święto", "jabłko", "róża"],
    "cp1251": ["кошка", "собака", "птица", "цветок"],
    "cp1252": ["Vögel", "Käfer", "Blüte", "Straße"],
    "cp1253": ["γάτα", "σκύλος", "πουλί", "δέντρο"],
    "cp1254": ["köpek", "kuş", "çiçek", "ağaç", "balık"],
    "koi8_r": ["кошка", "собака", "птица", "цветок"],
}


@pytest.mark.parametrize(
    ("code_page", "from_dos"), [*((page, True) for page in LABELS), *((page, False) for page in OTHER_LABELS)]
)
def test_names_are_decoded(code_page: str, from_dos: bool):
    names = (LABELS | OTHER_LABELS)[code_page]
    encoded = [name.encode(code_page) for name in names]
    guess = guess_code_page(encoded, from_dos)
    assert [name.decode(guess.code_page) for name in encoded] == names


@pytest.mark.parametrize("code_page", LABELS)
def test_the_order_of_the_names_does_not_matter(code_page: str):
    encoded = [name.encode(code_page) for name in LABELS[code_page]]
    assert guess_code_page(encoded, True) == guess_code_page([*reversed(encoded), *encoded], True)


def test_a_clear_guess_is_certain():
    assert guess_code_page([name.encode("cp932") for name in LABELS["cp932"]], True) == Guess("cp932", False)


def test_a_short_name_that_could_be_another_is_uncertain():
    assert guess_code_page(["花".encode("big5")], True).uncertain


@pytest.mark.parametrize("names", [[], [b"cat", b"dog"], ["猫".encode(), "écureuil".encode()]])
def test_ascii_and_utf8_are_utf8(names: list[bytes]):
    assert guess_code_page(names, True) == Guess("utf-8", False)


def test_one_damaged_name_among_many_in_utf8_changes_nothing():
    names = [f"écureuil {number}".encode() for number in range(20)]
    assert guess_code_page([*names, b"\xff\xfe"], True) == Guess("utf-8", False)
