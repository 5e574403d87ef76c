"""The things of the sticker world: what each is called, what kind it is, and what it is good for.

One literal table. A kind or use with a trailing ``?`` is arguable (is a tomato a fruit?): it is never claimed, and it
also keeps any other thing from being called *the* fruit of the scene.
"""

from __future__ import annotations

from dataclasses import dataclass

KINDS: dict[str, str] = {
    "animal": "animals",
    "bird": "birds",
    "insect": "insects",
    "fruit": "fruits",
    "vegetable": "vegetables",
    "food": "foods",
    "drink": "drinks",
    "vehicle": "vehicles",
    "tool": "tools",
    "garment": "garments",
    "instrument": "instruments",
    "toy": "toys",
    "furniture": "furniture",
    "plant": "plants",
    "flower": "flowers",
    "building": "buildings",
    "machine": "machines",
    "ball": "balls",
}
"""Kind of thing -> its plural. Words for parts of the sky or loose objects have no kind of their own."""

USES: dict[str, str] = {
    "eat": "you can eat",
    "drink": "you can drink",
    "wear": "you can wear",
    "fly": "that can fly",
    "swim": "that lives in water",
    "music": "that makes music",
    "ride": "you can ride in",
    "write": "you can write with",
    "cut": "you can cut with",
    "light": "that gives light",
    "time": "that tells the time",
    "wheels": "with wheels",
    "sit": "you can sit on",
    "read": "you can read",
}
"""Use or ability -> how it is said after "the thing"."""


@dataclass(frozen=True)
class Thing:
    """One everyday thing of the sticker world."""

    name: str
    plural: str = ""
    kinds: frozenset[str] = frozenset()
    maybe_kinds: frozenset[str] = frozenset()
    uses: frozenset[str] = frozenset()
    maybe_uses: frozenset[str] = frozenset()
    colour: str = ""
    """The colour it usually has; empty when there is no usual one."""
    recolour: bool = True
    """False when the colour is what tells it from another thing, so that it is never repainted."""

    @property
    def is_plural(self) -> bool:
        """Whether the name itself is a plural ("the scissors are")."""
        return self.plural == self.name and self.name in PLURAL_NAMES

    @property
    def category(self) -> str:
        """The most specific kind, or the empty string."""
        return next((kind for kind in SPECIFIC if kind in self.kinds), "")


SPECIFIC = ("bird", "insect", "flower", "fruit", "vegetable", "ball", *KINDS)
IMPLIED = {
    "bird": "animal",
    "insect": "animal",
    "fruit": "food",
    "vegetable": "food",
    "flower": "plant",
}
PLURAL_NAMES = frozenset({"glasses", "jeans", "gloves", "socks", "scissors", "headphones", "fries", "grapes"})
IRREGULAR = {
    "mouse": "mice",
    "sheep": "sheep",
    "fish": "fish",
    "wolf": "wolves",
    "leaf": "leaves",
    "knife": "knives",
    "cherry": "cherries",
    "butterfly": "butterflies",
    "strawberry": "strawberries",
    "candy": "candies",
    "battery": "batteries",
    "teddy": "teddies",
    "factory": "factories",
    "tomato": "tomatoes",
    "couch": "couches",
    "box": "boxes",
    "fox": "foxes",
    "bus": "buses",
    "cactus": "cactuses",
    "octopus": "octopuses",
    "watch": "watches",
    "toothbrush": "toothbrushes",
    "dress": "dresses",
    "church": "churches",
    "hourglass": "hourglasses",
    "dice": "dice",
    "volcano": "volcanoes",
    "bread": "breads",
}

# name | kinds | uses | usual colour | "=" when the colour must stay
TABLE = """
dog         | animal          |           | brown
cat         | animal          |           | orange
mouse       | animal          |           | grey
rabbit      | animal          |           | white
bear        | animal          |           | brown
panda       | animal          |           |        | =
koala       | animal          |           | grey
tiger       | animal          |           | orange | =
lion        | animal          |           | yellow
cow         | animal          |           |
pig         | animal          |           | pink
sheep       | animal          |           | white
goat        | animal          |           |
horse       | animal          | sit? ride?| brown
monkey      | animal          |           | brown
gorilla     | animal          |           | grey
elephant    | animal          | sit? ride?| grey
giraffe     | animal          |           | yellow | =
zebra       | animal          |           |        | =
camel       | animal          | sit? ride?| brown
fox         | animal          |           | orange
wolf        | animal          |           | grey
squirrel    | animal          |           | brown
hedgehog    | animal          |           | brown
bat         | animal          | fly       | grey
unicorn     | animal          | fly? ride?| white
chicken     | animal bird     | fly? eat? | white
chick       | animal bird     | fly?      | yellow
duck        | animal bird     | fly swim? eat? | green
owl         | animal bird     | fly       | brown
eagle       | animal bird     | fly       | brown
penguin     | animal bird     | swim? fly? |
parrot      | animal bird     | fly       |
dove        | animal bird     | fly       | white
fish        | animal          | swim eat? | blue
shark       | animal          | swim      | grey
whale       | animal          | swim      | blue
dolphin     | animal          | swim      | blue
octopus     | animal          | swim eat? | pink
crab        | animal          | swim eat? | red
turtle      | animal          | swim?     | green
frog        | animal          | swim?     | green
crocodile   | animal          | swim?     | green
snake       | animal          | swim?     | green
dinosaur    | animal toy?     |           | green
snail       | animal          | swim?     |
butterfly   | animal insect   | fly       |
bee         | animal insect   | fly       | yellow
ladybug     | animal insect   | fly       | red
ant         | animal insect   | fly?      |
spider      | animal insect?  |           | black
apple       | fruit food      | eat       | red    | =
banana      | fruit food      | eat       | yellow
strawberry  | fruit food      | eat       | red
grapes      | fruit food      | eat       | purple
watermelon  | fruit food      | eat       | red
pineapple   | fruit food      | eat       | yellow
tangerine   | fruit food      | eat       | orange | =
lemon       | fruit food      | eat       | yellow | =
cherry      | fruit food      | eat       | red
pear        | fruit food      | eat       | green
avocado     | fruit? vegetable? food | eat | green
tomato      | vegetable fruit? food | eat  | red    | =
eggplant    | vegetable food  | eat       | purple
corn        | vegetable food  | eat       | yellow
carrot      | vegetable food  | eat       | orange
broccoli    | vegetable food  | eat       | green
chili       | vegetable food  | eat       | red
mushroom    | vegetable? plant? food | eat |
pizza       | food            | eat       |
burger      | food            | eat       |
hotdog      | food            | eat       |
taco        | food            | eat       |
fries       | food            | eat       |
bread       | food            | eat       | brown
croissant   | food            | eat       | brown
pancake     | food            | eat       |
cheese      | food            | eat       | yellow
egg         | food            | eat       |
drumstick   | food            | eat       | brown
donut       | food            | eat       |
cookie      | food            | eat       | brown
cake        | food            | eat       |
candy       | food            | eat       |
lollipop    | food            | eat       |
chocolate   | food            | eat       | brown
popcorn     | food            | eat       |
icecream    | food            | eat       |
milk        | drink food?     | drink     | white
coffee      | drink food?     | drink     |
wine        | drink food?     | drink     |
beer        | drink food?     | drink     | yellow
teapot      | drink?          | drink?    |
car         | vehicle machine? | ride wheels | red
bus         | vehicle machine? | ride wheels |
truck       | vehicle machine? | ride wheels |
taxi        | vehicle machine? | ride wheels | yellow | =
ambulance   | vehicle machine? | ride wheels | white  | =
firetruck   | vehicle machine? | ride wheels | red    | =
tractor     | vehicle machine? | ride wheels |
bicycle     | vehicle machine? | ride? sit? wheels |
motorcycle  | vehicle machine? | ride? sit? wheels |
scooter     | vehicle toy?     | ride? wheels |
train       | vehicle machine? | ride wheels |
airplane    | vehicle machine? | ride fly wheels? |
helicopter  | vehicle machine? | ride fly wheels? |
rocket      | vehicle machine? | ride fly    |
ufo         | vehicle machine? | ride? fly   |
sailboat    | vehicle          | ride swim?  |
ship        | vehicle machine? | ride swim?  |
skateboard  | toy? vehicle?   | wheels ride? sit? |
hammer      | tool            |           |
wrench      | tool            |           | grey
screwdriver | tool            |           |
axe         | tool            | cut       |
scissors    | tool            | cut       |
knife       | tool            | cut       |
magnet      | tool            |           | red
key         | tool?           |           | yellow
lock        | tool?           |           | yellow
ladder      | tool furniture? |           |
bucket      | tool            |           |
paintbrush  | tool            | write?    |
pencil      | tool            | write     | yellow
battery     | tool? machine?  |           |
candle      | tool?           | light     |
bulb        | tool? machine?  | light     | yellow
lantern     | furniture?      | light     | red
magnifier   | tool            |           |
toothbrush  | tool            |           |
anchor      | tool?           |           |
shirt       | garment         | wear      | blue
jeans       | garment         | wear      | blue
dress       | garment         | wear      |
bikini      | garment         | wear      |
socks       | garment         | wear      |
scarf       | garment         | wear      |
hat         | garment         | wear      | black
cap         | garment         | wear      | blue
crown       | garment         | wear      | yellow
sneaker     | garment         | wear      |
boot        | garment         | wear      | brown
heel        | garment         | wear      | red
glasses     | garment? tool?  | wear      |
backpack    | garment?        | wear?     |
handbag     | garment?        | wear?     |
ring        | garment?        | wear      |
watch       | garment? machine? tool? | wear time |
guitar      | instrument      | music     |
violin      | instrument      | music     | brown
trumpet     | instrument      | music     | yellow
saxophone   | instrument      | music     | yellow
drum        | instrument      | music     |
piano       | instrument furniture? | music |
microphone  | instrument? machine? tool? | music? |
headphones  | garment? machine? | music? wear? |
bell        | instrument?     | music?    | yellow
football    | ball toy        |           | white  | =
basketball  | ball toy        |           | orange | =
baseball    | ball toy        |           | white  | =
bowling     | ball? toy       |           |
racket      | toy? tool?      |           |
kite        | toy             | fly       |
teddy       | toy animal?     |           | brown
puzzle      | toy             |           |
dice        | toy             |           |
balloon     | toy             | fly       | red
robot       | toy? machine    |           |
gamepad     | toy machine     |           |
target      | toy?            |           | red
gift        | toy?            |           |
trophy      |                 |           | yellow
medal       | garment?        | wear?     | yellow
chair       | furniture       | sit       |
couch       | furniture       | sit light? |
bed         | furniture       | sit?      |
door        | furniture?      |           | brown
toilet      | furniture?      | sit       | white
bathtub     | furniture       | sit?      | white
mirror      | furniture tool? |           |
clock       | machine furniture? | time   |
hourglass   | tool?           | time      |
television  | machine furniture? | light? |
phone       | machine         | light? time? music? write? read? |
telephone   | machine         |           |
laptop      | machine         | light? write? read? |
keyboard    | machine         | write?    |
printer     | machine         | write?    |
camera      | machine         |           |
book        |                 | read      |
envelope    |                 | read?     | white
box         | furniture?      |           | brown
basket      | furniture? tool? |          | brown
gem         |                 | wear?     | blue
bomb        | tool?           |           | black
bone        | food?           | eat?      | white
umbrella    | garment? tool   | wear?     | purple
tree        | plant           |           | green
pine        | plant           |           | green
palm        | plant           |           |
cactus      | plant           |           | green
seedling    | plant           |           | green
clover      | plant           |           | green
leaf        | plant           |           | red
rose        | plant flower    |           | red   | =
tulip       | plant flower    |           | pink   | =
sunflower   | plant flower    |           | yellow
hibiscus    | plant flower    |           | pink
pumpkin     | plant? vegetable? fruit? food? toy? | eat? light? | orange
sun         |                 | light     | yellow | =
moon        |                 | light     | yellow
star        |                 | light     | yellow
cloud       |                 | fly?      | white
rainbow     |                 | light?    |        | =
snowflake   |                 |           | blue
snowman     | toy?            |           | white
fire        |                 | light     | orange
lightning   |                 | light     | yellow
volcano     |                 | light?    |
globe       |                 |           | blue
shell       | animal?         | swim?     |
ghost       | animal?         | fly?      | white
skull       |                 |           | white
house       | building        |           |
castle      | building        |           |
church      | building        |           |
tent        | building?       |           |
factory     | building        |           |
mailbox     | building? furniture? |      |
"""


def _parse_table(table: str) -> dict[str, Thing]:
    """The table as records, with implied kinds added and plurals made."""
    things: dict[str, Thing] = {}
    for line in table.strip().splitlines():
        name, kinds, uses, colour, *rest = ([cell.strip() for cell in line.split("|")] + [""])[:5]
        sure = {word for word in kinds.split() if not word.endswith("?")}
        sure |= {IMPLIED[word] for word in sure if word in IMPLIED}
        plural = name if name in PLURAL_NAMES else IRREGULAR.get(name, name + "s")
        things[name] = Thing(
            name=name,
            plural=plural,
            kinds=frozenset(sure),
            maybe_kinds=frozenset(word[:-1] for word in kinds.split() if word.endswith("?")),
            uses=frozenset(word for word in uses.split() if not word.endswith("?")),
            maybe_uses=frozenset(word[:-1] for word in uses.split() if word.endswith("?")),
            colour=colour,
            recolour="=" not in rest,
        )
    return things


THINGS: dict[str, Thing] = _parse_table(TABLE)
"""Name -> thing, for every thing of the built-in sprites."""

# fmt: off
FAMILIAR = (
    "dog", "cat", "mouse", "rabbit", "bear", "panda", "tiger", "lion", "cow", "pig", "sheep", "horse", "monkey",
    "elephant", "giraffe", "zebra", "chicken", "duck", "owl", "penguin", "fish", "whale", "octopus", "crab", "turtle",
    "frog", "snake", "snail", "butterfly", "bee", "ladybug", "dinosaur", "apple", "banana", "strawberry", "grapes",
    "watermelon", "pineapple", "lemon", "cherry", "tomato", "corn", "carrot", "mushroom", "pizza", "burger", "bread",
    "egg", "donut", "cookie", "cake", "icecream", "car", "bus", "truck", "bicycle", "train", "airplane", "helicopter",
    "rocket", "ship", "hammer", "scissors", "key", "lock", "pencil", "candle", "shirt", "dress", "hat", "crown",
    "glasses", "umbrella", "guitar", "drum", "bell", "football", "basketball", "balloon", "kite", "teddy", "gift",
    "chair", "clock", "television", "phone", "book", "tree", "cactus", "sunflower", "rose", "sun", "moon", "star",
    "cloud", "rainbow", "snowman", "fire", "house", "castle",
)
# fmt: on
"""A hundred things that children know."""
