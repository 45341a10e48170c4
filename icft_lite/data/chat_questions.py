"""Free-answer questions of the chat suite: topics, templates, facts, and other names of answers."""

from typing import NamedTuple


class Topic(NamedTuple):
    """One topic of free-answer questions. {0} is the entity."""

    held_out: tuple[str, ...]
    """Templates of validation and test."""
    memory: tuple[str, ...]
    relation: str = ""
    """Pattern of texts that ask the same about an entity. The empty pattern: any text that names the entity."""
    facts: str = ""
    """`entity=answer; …`. Without facts, entities, answers and options are those of the samples of this topic."""
    aliases: str = ""
    """`answer=alias, alias; …`: what a reply may say instead."""


TOPICS = {
    "capital": Topic(
        ("Which city is the capital of {0}?", "What is the capital city of {0} called?"),
        ("Name the capital of {0}.", "I forgot the capital of {0}. Can you tell me?"),
        "capital",
        aliases="""kyiv=kiev; astana=nur sultan; sri jayawardenepura kotte=kotte, sri jayawardenapura kotte, colombo
        sucre=la paz; pretoria=cape town, bloemfontein; ulaanbaatar=ulan bator; naypyidaw=nay pyi taw
        new delhi=delhi; bern=berne; saint john's=st. john's; saint george's=st. george's; ngerulmud=melekeok
        ashgabat=ashkhabad; mbabane=lobamba""",
    ),
    "continent": Topic(
        ("Which continent is {0} on?", "On what continent would you find {0}?"),
        ("Name the continent of {0}.", "To which continent does {0} belong?"),
        "continent|where",
        aliases="""asia=asian; africa=african; europe=european; north america=north american
        south america=south american; oceania=australasia""",
    ),
    "animal_class": Topic(
        ("Which animal class does the {0} belong to?", "What class of animals is the {0} a member of?"),
        ("To which group of animals does the {0} belong?", "Tell me how biologists classify the {0}."),
        "class|kind|type|sort|category|group",
        aliases="mammal=mammalia; bird=aves; insect=insecta; reptile=reptilia; amphibian=amphibia",
    ),
    "colour": Topic(  # data: the name of the topic in the samples
        ("What color is {0}?", "Which color does {0} usually have?"),
        ("Tell me the typical color of {0}.", "Name the color that you expect of {0}."),
        "colou?r",
        aliases="grey=gray, silver; yellow=golden; purple=violet",
    ),
    "opposite": Topic(
        ('What is the opposite of "{0}"?', 'Which word means the opposite of "{0}"?'),
        ('Give me an antonym for "{0}".', 'Find a word with the contrary meaning: "{0}".'),
        "opposite|antonym|contrary",
        aliases="""difficult=hard, challenging; small=little, tiny; bright=light; finish=end; stop=end; rare=uncommon
        quiet=silent, soft; blunt=dull; cowardly=coward, timid, fearful; rude=impolite; stupid=dumb, foolish
        foolish=unwise, stupid; hostile=unfriendly; dangerous=unsafe; contract=shrink; shrink=contract
        expensive=costly; worsen=deteriorate; artificial=synthetic, unnatural; complex=complicated, difficult
        wild=untamed; fat=thick; refuse=reject, decline; hide=conceal; blame=criticize; selfish=stingy, greedy
        sad=unhappy; dirty=unclean; closed=shut; bent=crooked, curved; asleep=sleeping; cruel=unkind, mean
        decrease=reduce; remove=subtract; cry=weep; evening=night; narrow=thin; unusual=uncommon""",
    ),
    "plural": Topic(
        ('What is the plural of "{0}"?', 'How do you write the plural form of the noun "{0}"?'),
        ('One {0}, two of them: which form of the word "{0}" is right?', 'Change "{0}" to the plural.'),
        "plural|more than one|two|several",
    ),
    "past_tense": Topic(
        ('What is the past tense of "{0}"?', 'Which form does the verb "{0}" have in the simple past?'),
        ('Today I {0}. Which form of "{0}" do I use for yesterday?', 'Put the verb "{0}" into the past.'),
        "past|yesterday",
        aliases="learned=learnt; burned=burnt; dreamed=dreamt; spelled=spelt; spilled=spilt",
    ),
    "addition": Topic(("What is {0}?", "Calculate {0}."), ("Add these numbers for me: {0}", "{0} equals what?")),
    "multiplication": Topic(
        ("What is {0}?", "How much is {0}?"),
        ("Multiply for me: {0}", "{0} equals what?"),
        facts="; ".join(f"{a} times {b}={a * b}" for b in range(3, 12) for a in range(2, b)),
    ),
    "first_letter": Topic(
        ('What is the first letter of the word "{0}"?', 'With which letter does the word "{0}" begin?'),
        ('Look at the beginning of "{0}". Which letter is it?', 'Spell "{0}" and name only the initial letter.'),
        "letter|start|begin|initial",
    ),
    "next_number": Topic(
        ("Which number comes right after {0}?", "What is the next whole number after {0}?"),
        ("I count to {0}. How do I go on?", "Add one to {0}."),
        "after|next|count|add one",
        facts="; ".join(f"{n}={n + 1}" for n in range(11, 99)),
    ),
    "language": Topic(
        ("What is the official language of {0}?", "Which language do most people in {0} speak?"),
        ("I am going to travel to {0}. Which language should I learn?", "Name the main language of {0}."),
        "language|speak|spoken",
        facts="""Brazil=Portuguese; Mexico=Spanish; Austria=German; Japan=Japanese; Egypt=Arabic; Italy=Italian
        France=French; Russia=Russian; Greece=Greek; Poland=Polish; Sweden=Swedish; Hungary=Hungarian; Turkey=Turkish
        Denmark=Danish; Portugal=Portuguese; Argentina=Spanish; Germany=German; Saudi Arabia=Arabic; Finland=Finnish
        Norway=Norwegian; the Netherlands=Dutch; Iran=Persian; Vietnam=Vietnamese; Thailand=Thai; South Korea=Korean
        Cuba=Spanish; Iraq=Arabic; Chile=Spanish; Peru=Spanish; Bulgaria=Bulgarian; Romania=Romanian
        Iceland=Icelandic; Colombia=Spanish; Libya=Arabic; Australia=English; Jamaica=English; Angola=Portuguese
        Senegal=French; Albania=Albanian; Estonia=Estonian""",
        aliases="persian=farsi",
    ),
    "element": Topic(
        ('Which chemical element has the symbol "{0}"?', 'What does the chemical symbol "{0}" stand for?'),
        ('In chemistry I read "{0}". Which element is meant?', 'Tell me the element with the symbol "{0}".'),
        "element|symbol|chemi",
        facts="""H=hydrogen; He=helium; Li=lithium; C=carbon; N=nitrogen; O=oxygen; Ne=neon; Na=sodium; Mg=magnesium
        S=sulfur; Al=aluminum; Si=silicon; Cl=chlorine; K=potassium; Ca=calcium; Ti=titanium; Cr=chromium
        Mn=manganese; Fe=iron; Ni=nickel; Cu=copper; Zn=zinc; Ag=silver; Sn=tin; Au=gold; Hg=mercury; Pb=lead
        U=uranium; Pt=platinum; Ar=argon""",
        aliases="aluminum=aluminium; sulfur=sulphur",
    ),
    "everyday": Topic(
        ("{0}",),
        ("{0}",),
        facts="""How many days are there in a week?=7; How many minutes are there in an hour?=60
        What is frozen water called?=ice; Which planet do we live on?=Earth
        Which planet is closest to the sun?=Mercury; Which animal is known as man's best friend?=dog
        What gas do plants take in from the air?=carbon dioxide; How many months are there in a year?=12
        Who wrote "Hamlet"?=Shakespeare; Which is the largest ocean on Earth?=Pacific; Which insect makes honey?=bee
        What do caterpillars turn into?=butterfly; Which is the tallest animal in the world?=giraffe
        Which shape has three sides?=triangle; Who painted the Mona Lisa?=da Vinci
        How many legs does a spider have?=8; Which star is at the center of our solar system?=sun
        What do cows eat in a meadow?=grass; Which season comes after winter?=spring
        Which day comes after Monday?=Tuesday; Which month comes after June?=July
        How many sides does a square have?=4; Which metal is attracted by magnets?=iron
        From which fruit is wine made?=grape; Which is the largest planet of the solar system?=Jupiter
        How many players are in a soccer team on the field?=11; Who developed the theory of relativity?=Einstein
        Which bird is a symbol of peace?=dove; Which grain is sushi made with?=rice
        In which country is the Eiffel Tower?=France; In which city is the Statue of Liberty?=New York
        Which river flows through Cairo?=Nile; What do you call a scientist who studies the stars?=astronomer
        How many hours are there in a day?=24; Which instrument has 88 keys?=piano
        What is the hardest natural material?=diamond; What do we call molten rock from a volcano?=lava
        At what temperature in Celsius does water boil?=100; Which country has the form of a boot?=Italy
        Which animal is the king of the jungle?=lion; Which sea lies between Europe and Africa?=Mediterranean
        Who was the first president of the United States?=Washington; Which desert is the largest hot one?=Sahara
        Which sweet food do bees store in the hive?=honey; How many wheels does a bicycle have?=2
        In which country are the pyramids of Giza?=Egypt; Which tool do you use to hit nails?=hammer
        What is paper made from?=wood; Which primary color do you mix with blue to get green?=yellow
        Which mountain is the highest on Earth?=Everest; How many cents make a dollar?=100
        Which natural satellite circles the Earth?=moon; Which language is spoken in London?=English
        How many continents are there?=7; Which vehicle runs on rails?=train
        How many letters has the English alphabet?=26""",
        aliases="wood=tree, pulp, fiber; bee=honeybee",
    ),
}  # fmt: skip
"""The topics of free-answer questions, see Topic."""
