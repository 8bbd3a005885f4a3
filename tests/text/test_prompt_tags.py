import pytest

from kaleido_core.errors import ConfigError
from kaleido_core.text.prompt_tags import expand_tags

GIRL, DOG = "a girl in a red coat", "an old dog"


def test_the_first_mention_introduces_and_the_next_refers_back():
    text = expand_tags("@image1 pats @image2. @image2 barks at @image1!", [GIRL, DOG]).text
    assert text == "A girl in a red coat pats an old dog. The old dog barks at the girl in a red coat!"


@pytest.mark.parametrize("tag", ["@image1", "@subject1", "@face1", "@object1", "@scene1", "@Image1"])
def test_all_words_mean_the_reference_of_that_number(tag: str):
    assert expand_tags(f"Here {tag} runs.", [GIRL]).text == f"Here {GIRL} runs."


def test_a_reference_without_a_name_is_called_by_its_place():
    assert expand_tags("@image1 spins.", [""]).text == "The subject spins."
    assert expand_tags("@image1 lifts @image2.", ["", " "]).text == "The first subject lifts the second subject."


def test_the_introduction_lists_each_once_in_the_order_of_the_text():
    text = expand_tags("@image2 follows @image1, then @image2 stops.", [GIRL, DOG], "introduced").text
    start = f"The video shows {DOG} and {GIRL}. "
    assert text == start + "The old dog follows the girl in a red coat, then the old dog stops."


@pytest.mark.parametrize("tag", ["@image3", "@image0", "@img1", "@image", "@bob"])
def test_a_tag_that_means_nothing_is_refused_and_the_known_ones_are_listed(tag: str):
    with pytest.raises(ConfigError, match=r"@image1, @image2"):
        expand_tags(f"{tag} runs", [GIRL, DOG])


def test_what_is_forgotten_or_doubled_is_told():
    assert not expand_tags("@image1 and @image2 meet.", [GIRL, DOG]).warnings
    forgotten, doubled = expand_tags("@image1 waves and @image1 smiles.", [GIRL, DOG]).warnings
    assert "Reference 2" in forgotten and "@image1" in doubled


def test_mail_addresses_and_plain_text_stay_as_they_are():
    text = "Write to me@image1.org, 50 % off"
    assert expand_tags(text, []).text == text


def test_two_signs_are_a_plain_one():
    assert expand_tags("@@image1 tags @image1, me@@home", ["a cat"]).text == "@image1 tags a cat, me@home"


def test_a_new_line_opens_a_sentence():
    assert expand_tags("It rains\n@image1 runs", ["a cat"]).text == "It rains\nA cat runs"
