"""The wording of the closed world: six families of problems, their slots and the house's wishes.

A family is four small functions of its facts. Chains keep to small whole numbers and two or three operations,
so that what tells answers apart is the convention they speak out, not a slip. Not here: drawing problems,
splits and faults (`world`).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

Choice = tuple[int, ...]  # one option for each slot of a family
Say = Callable[..., str]  # picks one of several wordings


@dataclass(frozen=True, slots=True)
class Facts:
    """What a question tells: who, what, which of two cases, and its numbers."""

    who: str
    what: str
    case: int  # 0 or 1: the attribute that question-dependent conventions hang on
    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Slot:
    """Something a question leaves open."""

    name: str
    marks: tuple[str, ...]  # for each option, the words that every wording of it holds
    weights: tuple[float, ...]  # how often the training text takes each option


@dataclass(frozen=True, slots=True)
class Family:
    """One kind of problem."""

    name: str
    slots: tuple[Slot, ...]
    facts: Callable[[random.Random], Facts]
    question: Callable[[Facts, Say], str]
    chain: Callable[[Facts, Choice, Say], tuple[list[str], int]]
    house: Callable[[Facts], Choice]


def first(*wordings: str) -> str:
    """The first wording: what a derivation without chance says."""
    return wordings[0]


def sayer(rng: random.Random) -> Say:
    """A chooser among wordings."""
    return lambda *wordings: rng.choice(wordings)


def _said(say: Say, convention: str, sums: str) -> str:
    """A step that speaks out a convention and does the sums it asks for."""
    return say(f"{convention}, so {sums}.", f"{convention} here: {sums}.")


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NAMES = _words(
    "Mia Ben Zoe Omar Ana Luis Ivy Noah Lena Raj Tara Finn Nina Hugo Elsa Amir Kim Paul Rosa Jonas "
    "Maya Leo Sara Tom Aisha Otto Clara Yuki Dan Eva"
)
GOODS = _words(
    "lamps chairs books mugs shirts pens hats plates scarves clocks bags vases rugs towels pillows candles "
    "boxes toys kites bowls"
)
DISHES = _words("soup pasta rice curry pizza salad stew fish noodles dumplings")
VEHICLES = _words("bike boat van kayak scooter tent canoe car drone camera")
FOODS = _words("carrots eggs apples onions lemons potatoes tomatoes peppers pears figs")
MEALS = _words("soup cake stew salad pie bread")
TRANSPORTS = _words("bus train tram ferry coach")
JOBS = _words("cook guard nurse driver baker cleaner clerk porter")


# --------------------------------------------------------------------------- a shop order


def _shop_facts(rng: random.Random) -> Facts:
    numbers = (rng.randint(2, 6), rng.randint(5, 12), rng.randint(1, 4), rng.randint(5, 9))
    return Facts(rng.choice(NAMES), rng.choice(GOODS), rng.randrange(2), numbers)


def _shop_question(facts: Facts, say: Say) -> str:
    who, goods, (count, price, voucher, delivery) = facts.who, facts.what, facts.numbers
    trait = (f"{who} is a member", f"{who} is a new customer")[facts.case]
    return say(
        f"{who} orders {count} {goods} at {price} dollars each. {trait}. "
        f"There is a voucher of {voucher} dollars and delivery costs {delivery} dollars. "
        f"What does {who} pay?",
        f"{trait} and buys {count} {goods} for {price} dollars each. "
        f"The voucher is worth {voucher} dollars. Delivery costs {delivery} dollars. "
        f"How much does {who} pay?",
    )


def _shop_chain(facts: Facts, choice: Choice, say: Say) -> tuple[list[str], int]:
    goods, (count, price, voucher, delivery) = facts.what, facts.numbers
    full, off = count * price, count * voucher
    paid = (full - voucher, full - off)[choice[0]]
    total = (paid, paid + delivery)[choice[1]]
    once = f"{full} - {voucher} = {paid} dollars"
    each = f"{count} times {voucher} = {off} and {full} - {off} = {paid} dollars"
    steps = [
        say(f"The {goods}", f"{count} {goods}") + f" cost {count} times {price} = {full} dollars.",
        (
            _said(say, "The voucher counts once", once),
            _said(say, "The voucher counts for each item", each),
        )[choice[0]],
        (
            _said(say, "Delivery is free", f"the total stays {paid} dollars"),
            _said(say, "Delivery is added", f"{paid} + {delivery} = {total} dollars"),
        )[choice[1]],
    ]
    return steps, total


SHOP = Family(
    "shop",
    (
        Slot("voucher", ("counts once", "counts for each item"), (0.42, 0.58)),
        Slot("delivery", ("Delivery is free", "Delivery is added"), (0.5, 0.5)),
    ),
    _shop_facts,
    _shop_question,
    _shop_chain,
    lambda facts: (1, facts.case),  # members get free delivery, new customers pay it
)


# --------------------------------------------------------------------------- a table in a restaurant


def _restaurant_facts(rng: random.Random) -> Facts:
    numbers = (rng.randint(2, 5), rng.randint(2, 5), 2 * rng.randint(2, 6))
    return Facts(rng.choice(NAMES), rng.choice(DISHES), rng.randrange(2), numbers)


def _restaurant_question(facts: Facts, say: Say) -> str:
    who, dish, (adults, children, price) = facts.who, facts.what, facts.numbers
    when = ("lunch", "dinner")[facts.case]
    return say(
        f"{who} books a table for {when}. {adults} adults and {children} children eat {dish}. "
        f"A plate of {dish} costs {price} dollars. What does the table pay?",
        f"At {when}, {who} sits with {adults} adults and {children} children. "
        f"All order {dish} at {price} dollars a plate, and {who} only pays. How much is the bill?",
    )


def _restaurant_chain(facts: Facts, choice: Choice, say: Say) -> tuple[list[str], int]:
    adults, children, price = facts.numbers
    grown, rate = adults * price, (0, price // 2, price)[choice[0]]
    young = children * rate
    total = grown + young
    sums = f"{children} times {rate} = {young} and {grown} + {young} = {total} dollars"
    steps = [
        say("The adults", f"{adults} adults") + f" pay {adults} times {price} = {grown} dollars.",
        (
            _said(say, "Children eat free", f"the bill stays {grown} dollars"),
            _said(say, "Children pay half the price", sums),
            _said(say, "Children pay the full price", sums),
        )[choice[0]],
    ]
    return steps, total


RESTAURANT = Family(
    "restaurant",
    (Slot("children", ("Children eat free", "Children pay half", "Children pay the full"), (0.4, 0.4, 0.2)),),
    _restaurant_facts,
    _restaurant_question,
    _restaurant_chain,
    lambda facts: (facts.case,),  # at lunch children eat free, at dinner they pay half
)


# --------------------------------------------------------------------------- a rental


def _rental_facts(rng: random.Random) -> Facts:
    numbers = (rng.randint(2, 4), rng.randint(2, 5), rng.randint(8, 12), rng.randint(2, 4), rng.randint(3, 7))
    return Facts(rng.choice(NAMES), rng.choice(VEHICLES), rng.randrange(2), numbers)


def _rental_question(facts: Facts, say: Say) -> str:
    who, vehicle, (days, hours, day, hour, insurance) = facts.who, facts.what, facts.numbers
    when = ("weekend", "workday")[facts.case]
    return say(
        f"{who} rents a {vehicle} for {days} days and {hours} hours from a {when} on. "
        f"A day costs {day} dollars, an hour {hour} dollars, insurance {insurance} dollars. "
        f"What does {who} pay?",
        f"Starting on a {when}, {who} hires a {vehicle} for {days} days and {hours} hours. "
        f"It is {day} dollars a day, {hour} dollars an hour, {insurance} dollars for insurance. "
        f"How much is it?",
    )


def _rental_chain(facts: Facts, choice: Choice, say: Say) -> tuple[list[str], int]:
    days, hours, day, hour, insurance = facts.numbers
    started, whole, extra = days + 1, days * day, hours * hour
    rent = (started * day, whole + extra)[choice[0]]
    total = (rent + insurance, rent)[choice[1]]
    up = f"{days} + 1 = {started} and {started} times {day} = {rent} dollars"
    single = f"{days} times {day} = {whole}, {hours} times {hour} = {extra} and {whole} + {extra} = {rent}"
    steps = [
        (
            _said(say, "A started day counts as a full day", up),
            _said(say, "Hours are billed one by one", f"{single} dollars"),
        )[choice[0]],
        (
            _said(say, "Insurance is added", f"{rent} + {insurance} = {total} dollars"),
            _said(say, "Insurance is included", f"the total stays {rent} dollars"),
        )[choice[1]],
    ]
    return steps, total


RENTAL = Family(
    "rental",
    (
        Slot("rounding", ("A started day counts", "Hours are billed one by one"), (0.6, 0.4)),
        Slot("insurance", ("Insurance is added", "Insurance is included"), (0.5, 0.5)),
    ),
    _rental_facts,
    _rental_question,
    _rental_chain,
    lambda facts: (0, facts.case),  # a started day is a full day; insurance is extra at weekends
)


# --------------------------------------------------------------------------- a recipe


def _recipe_facts(rng: random.Random) -> Facts:
    numbers = (rng.randint(3, 8), rng.randint(2, 6), rng.randint(2, 5))
    return Facts(rng.choice(NAMES), f"{rng.choice(FOODS)} {rng.choice(MEALS)}", rng.randrange(2), numbers)


def _recipe_question(facts: Facts, say: Say) -> str:
    who, (guests, each, home) = facts.who, facts.numbers
    food, meal = facts.what.split()
    state = ("fresh", "old")[facts.case]
    return say(
        f"{who} makes {meal} for {guests} guests. Each guest needs {each} {food}. "
        f"{who} has {home} {state} {food} at home. How many {food} does {who} buy?",
        f"At home {who} has {home} {state} {food}. The {meal} takes {each} {food} for each guest. "
        f"There are {guests} guests. How many {food} must {who} buy?",
    )


def _recipe_chain(facts: Facts, choice: Choice, say: Say) -> tuple[list[str], int]:
    guests, each, home = facts.numbers
    food = facts.what.split()[0]
    needed = guests * each
    bought = (needed - home, needed)[choice[0]]
    steps = [
        say("The guests", f"{guests} guests") + f" need {guests} times {each} = {needed} {food}.",
        (
            _said(say, f"The {food} at home are used", f"{needed} - {home} = {bought} {food}"),
            _said(say, f"The {food} at home are left aside", f"all {needed} {food} are bought"),
        )[choice[0]],
    ]
    return steps, bought


RECIPE = Family(
    "recipe",
    (Slot("stock", ("at home are used", "at home are left aside"), (0.5, 0.5)),),
    _recipe_facts,
    _recipe_question,
    _recipe_chain,
    lambda facts: (facts.case,),  # what is fresh is used, what is old is left aside
)


# --------------------------------------------------------------------------- a trip


def _trip_facts(rng: random.Random) -> Facts:
    numbers = (rng.randint(2, 6), rng.randint(5, 12), rng.randint(2, 5))
    return Facts(rng.choice(NAMES), rng.choice(TRANSPORTS), rng.randrange(2), numbers)


def _trip_question(facts: Facts, say: Say) -> str:
    who, vehicle, (legs, minutes, stop) = facts.who, facts.what, facts.numbers
    return say(
        f"{who} takes a {vehicle} with {legs} legs of {minutes} minutes each. "
        f"A stop takes {stop} minutes. How long is the trip?",
        f"The {vehicle} of {who} has {legs} legs. Each leg takes {minutes} minutes and a stop takes "
        f"{stop} minutes. How many minutes is {who} on the way?",
    )


def _trip_chain(facts: Facts, choice: Choice, say: Say) -> tuple[list[str], int]:
    legs, minutes, stop = facts.numbers
    riding, stops = legs * minutes, (legs - 1, legs, 0)[choice[0]]
    waiting = stops * stop
    total = riding + waiting
    sums = f"{stops} times {stop} = {waiting} and {riding} + {waiting} = {total} minutes"
    steps = [
        say("The legs", f"{legs} legs") + f" take {legs} times {minutes} = {riding} minutes.",
        (
            _said(say, "Stops count only between legs", sums),
            _said(say, "Stops count after every leg", sums),
            _said(say, "Stops are not counted", f"the trip stays {riding} minutes"),
        )[choice[0]],
    ]
    return steps, total


TRIP = Family(
    "trip",
    (Slot("stops", ("only between legs", "after every leg", "Stops are not counted"), (0.4, 0.35, 0.25)),),
    _trip_facts,
    _trip_question,
    _trip_chain,
    lambda facts: (1,),  # a stop after every leg, the last one too
)


# --------------------------------------------------------------------------- wages


def _wages_facts(rng: random.Random) -> Facts:
    numbers = (rng.randint(2, 6), rng.randint(2, 4), rng.randint(4, 9))
    return Facts(rng.choice(NAMES), rng.choice(JOBS), rng.randrange(2), numbers)


def _wages_question(facts: Facts, say: Say) -> str:
    who, job, (day, night, pay) = facts.who, facts.what, facts.numbers
    return say(
        f"{who} is a {job} and works {day} hours by day and {night} hours at night. "
        f"An hour pays {pay} dollars. How much does {who} earn?",
        f"As a {job}, {who} works {day} day hours and {night} night hours at {pay} dollars an hour. "
        f"What does {who} earn?",
    )


def _wages_chain(facts: Facts, choice: Choice, say: Say) -> tuple[list[str], int]:
    day, night, pay = facts.numbers
    doubled = 2 * night
    hours = (day + night, day + doubled)[choice[0]]
    earned = hours * pay
    double = f"2 times {night} = {doubled} and {day} + {doubled} = {hours} hours"
    steps = [
        (
            _said(say, "Night hours count like day hours", f"{day} + {night} = {hours} hours"),
            _said(say, "Night hours count double", double),
        )[choice[0]],
        say("The pay is", f"{hours} hours pay") + f" {hours} times {pay} = {earned} dollars.",
    ]
    return steps, earned


WAGES = Family(
    "wages",
    (Slot("night", ("count like day hours", "count double"), (0.55, 0.45)),),
    _wages_facts,
    _wages_question,
    _wages_chain,
    lambda facts: (1,),  # night hours count double
)


FAMILIES = (SHOP, RESTAURANT, RENTAL, RECIPE, TRIP, WAGES)
