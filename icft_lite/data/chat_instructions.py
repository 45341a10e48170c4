"""Instructions of the chat suite: kinds, templates, subjects and constraints.

A line of `subjects` is one or more subjects, separated by `;`. The fields of a subject, separated by `|`, are written
as {0}, {1}, … in templates and checks. Usually {0} is what the instruction is about, and {1} are beginnings of words
that a reply about it contains.
"""

from typing import NamedTuple


class Kind(NamedTuple):
    """One kind of instruction."""

    subjects: str
    held_out: tuple[tuple[str, str], ...]
    """(template, checks separated by `; `) of validation and test. A check is NAME or NAME:ARGUMENT, see
    `icft_lite.chat_checks.CHECKS`. At least one check of each template is about the subject."""
    memory: tuple[str, ...] = ()
    """Templates of memory prompts, without checks. Kinds without any are the unseen kinds."""


KINDS = {
    "explain": Kind(
        """a bicycle|wheel pedal ride vehicle; a rainbow|light color sun sky; a compass|direction north navigat
        a lighthouse|ship coast sea tower; a windmill|energ power electric grain blade
        a telescope|star distant observ sky; a calendar|day date month year; a passport|travel countr identi document
        a bridge|river cross structure span; a greenhouse|plant grow crop; an escalator|stair floor mov
        an umbrella|rain weather protect; a dictionary|word meaning defin; a ladder|climb rung step reach
        a zipper|fasten cloth clos; a battery|energ power electric charge; a candle|wax light burn flame wick
        a magnet|iron metal attract field; a sundial|time shadow; a volcano|lava erupt magma mountain
        a waterfall|river cliff flow drop; a library|book read borrow; a kite|wind fly string sky""",
        (
            ("In at most 40 words, tell me what {0} is.", "words:5-40; any:{1}"),
            ("What is {0}? Your answer must be one single sentence.", "sentences:1-1; any:{1}"),
        ),
        (
            "Explain to a child how people use {0}.",
            "I have never seen {0} before. Please explain it.",
            "Could you explain the purpose of {0} to me?",
        ),
    ),
    "list": Kind(
        """fruits|apple banana orange grape strawberr mango pear peach
        vegetables|carrot potato tomato onion broccoli spinach pea; colors|red blue green yellow black white
        planets|mercury venus earth mars jupiter saturn; oceans|pacific atlantic indian arctic
        farm animals|cow pig sheep chicken horse goat; musical instruments|guitar piano violin drum flute trumpet
        sports|football soccer basketball tennis swim baseball run; tools|hammer screwdriver saw wrench drill
        pieces of furniture|chair table sofa bed desk couch
        days of the week|monday tuesday wednesday thursday friday
        months of the year|january february march april may june
        countries in Europe|france germany spain italy poland portugal sweden
        languages|english spanish french german chinese; trees|oak maple pine birch willow cedar
        flowers|rose tulip daisy lily sunflower orchid; birds|eagle robin sparrow owl parrot pigeon
        insects|ant bee butterfly beetle fly mosquito; shapes|circle square triangle rectangle
        hot drinks|tea coffee chocolate cocoa; vehicles|car bus truck bike bicycle train
        school subjects|math history science english art; items of clothing|shirt pants dress jacket hat shoe sock""",
        (
            ("List exactly three {0}, one on each line.", "items:3-3; any:{1}"),
            ("Name four {0} as a numbered list.", "items:4-4; any:{1}"),
        ),
        (
            "Which {0} come to your mind? List a few.",
            "I am writing a quiz. Make a list of {0} for me.",
            "Please give me some examples of {0}.",
        ),
    ),
    "rewrite": Kind(
        """The old clock is very loud.|clock; My new shoes are very comfortable.|shoe; The soup was very salty.|soup
        Our teacher tells very funny stories.|teacher; The train was very late again.|train
        This puzzle is very difficult.|puzzle; The view from the tower is very beautiful.|view tower
        The market was very crowded on Saturday.|market; His answer was very short.|answer
        The river is very wide here.|river; She bought a very expensive lamp.|lamp
        The children were very tired after the trip.|child; It was a very cold winter.|winter
        That movie is very long.|movie; The garden looks very green today.|garden
        My neighbor has a very small car.|car; The cake smells very good.|cake
        The road to the village is very narrow.|road village; He wrote a very polite letter.|letter
        The museum is very quiet in the morning.|museum; We had a very strong storm last night.|storm
        The stairs are very steep.|stairs; Her voice is very clear.|voice""",
        (
            ('Write this sentence again without the word "very": {0}', "lacks:very; any:{1}; words:3-15"),
            ('Replace the word "very" by "quite" in this sentence: {0}', "has:quite; lacks:very; any:{1}"),
        ),
        (
            "Make this sentence sound more formal. {0}",
            "Turn the following statement into a question. {0}",
            "Rewrite it with different words. {0}",
        ),
    ),
    "email": Kind(
        """your neighbor about a noisy party|nois party; a hotel about booking a room|room book
        a friend about a birthday gift|gift birthday; your landlord about a broken window|window
        a teacher about a late essay|essay; a shop about a missing parcel|parcel package
        a colleague about a lost key|key; the library about an overdue book|book
        a restaurant about a table for six|table; your boss about a new idea|idea
        an airline about a lost suitcase|suitcase luggage; a cousin about a family photo|photo
        the town hall about a parking permit|park permit; a club about joining the choir|choir join
        a bookshop about a signed novel|novel book; your team about moving the meeting|meeting
        a baker about a wedding cake|cake; a museum about opening hours|open hour; a printer about new posters|poster
        a customer about a delayed order|order; a coach about the next match|match
        the school about a bake sale|sale bak; a farmer about fresh eggs|egg""",
        (
            ('Write an email to {0}. The first word must be "Subject".', "starts:Subject; any:{1}"),
            ('Send a note of at most 40 words to {0}. Begin with "Hello".', "starts:Hello; words:5-40; any:{1}"),
        ),
        (
            "Draft a friendly email to {0}.",
            "I need to contact {0}. Can you compose the email?",
            "Please prepare a formal message for {0}.",
        ),
    ),
    "plan": Kind(
        """a picnic|food park location blanket drink basket; a birthday party|guest invit cake date theme
        a weekend at the sea|beach swim hotel pack; a school play|script actor stage rehears student
        a vegetable garden|soil seed plant water sun; a move to a new apartment|pack box furniture rent
        a book club|read member discuss meet; a garage sale|price item sell sign
        a camping trip|tent site gear food pack; a family dinner|meal menu food cook table
        a visit to a museum|ticket exhibit hour; a bicycle tour|route map bike
        a surprise party|guest date invit theme secret; a movie night|film popcorn snack screen
        a charity run|route runner donat sponsor; a class reunion|invit date venue location
        a small wedding|guest venue date dress; a photo exhibition|venue theme print galler
        a chess tournament|player round rule prize; a street market|stall vendor permit
        a hike in the hills|trail map water route; a cooking contest|recipe judge chef prize
        a clean-up day in the park|volunteer trash bag glove""",
        (
            ("List three steps to organize {0}. Number them.", "numbered:2-20; any:{1}"),
            ('What is needed for {0}? Begin your answer with the word "First".', "starts:First; any:{1}"),
        ),
        (
            "Make a simple plan for {0}.",
            "We want to prepare {0}. What has to be done, and when?",
            "Help me to set up {0} step by step.",
        ),
    ),
    "compare": Kind(
        """tea|coffee; cats|dogs; trains|buses; summer|winter; lakes|rivers; pencils|pens; apples|oranges
        novels|poems; cities|villages; gold|silver; football|tennis; letters|emails; the sun|the moon; bees|wasps
        wood|plastic; butter|cheese; violins|pianos; theaters|cinemas; oceans|deserts; frogs|toads; stairs|elevators
        bread|rice; newspapers|magazines""",
        (
            ("What is one difference between {0} and {1}? Answer in a single sentence.", "sentences:1-1; all:{0} {1}"),
            ('Compare {0} with {1}. Use the word "while".', "has:while; all:{0} {1}"),
        ),
        (
            "How do {0} differ from {1}?",
            "Describe what {0} and {1} have in common.",
            "Which do you prefer, {0} or {1}, and why?",
        ),
    ),
    "arithmetic": Kind(
        """Tom|5|2|apples|7|3; Nina|4|1|stamps|5|3; Omar|8|3|marbles|11|5; Lucy|6|2|postcards|8|4
        Ben|3|1|balloons|4|2; Rosa|10|5|beads|15|5; Karl|7|2|coins|9|5; Mia|9|4|shells|13|5; Sam|20|10|cards|30|10
        Ida|6|3|pencils|9|3; Paul|8|2|tickets|10|6; Vera|10|2|buttons|12|8; Hugo|5|3|cookies|8|2
        Lena|30|10|seeds|40|20; Adam|4|2|books|6|2; Zoe|10|4|photos|14|6; Max|7|1|eggs|8|6; Emma|9|2|stones|11|7
        Leo|50|20|bricks|70|30; Anna|12|2|flowers|14|10; Jack|3|2|keys|5|1; Ella|6|1|plates|7|5
        Finn|15|5|nails|20|10""",
        (
            ("{0} has {1} {3} and gets {2} more. How many {3} does {0} have in total?", "number:{4}"),
            ("There are {1} {3} in a box. {0} takes out {2}. How many {3} are left?", "number:{5}"),
        ),
        (
            "{0} found {2} {3} on Monday and {1} on Tuesday. What is the total?",
            "Out of {1} {3}, {0} gave {2} to a friend. Work out what remains.",
            "If {0} packs {1} {3} into every bag, what number fits into {2} bags?",
        ),
    ),
    "advice": Kind(
        """learn to play the guitar|practic guitar chord lesson; save money|budget sav spend money
        grow tomatoes|tomato soil water sun plant; write better essays|writ essay read outline
        make new friends|friend join people social; read more books|read book
        speak in public|speak practic speech audience; learn Spanish|spanish practic languag
        get up earlier|wake alarm earl bed; waste less food|food meal leftover waste
        draw portraits|draw practic portrait sketch face; train a puppy|pupp train reward treat dog
        find a summer job|job resume appl; learn to type faster|typ practic keyboard
        remember names|name repeat remember; bake good bread|bread dough bak flour
        take better photos|photo light camera; learn chess|chess practic play game; keep a diary|diar writ journal
        tidy the kitchen|kitchen clean clutter tid; choose a bicycle|bike frame size ride
        paint a room|paint room wall; learn to swim|swim water""",
        (
            ("I want to {0}. Give me one suggestion of no more than 30 words.", "words:4-30; any:{1}"),
            ('What helps people who want to {0}? Write two lines, each beginning with "-".', "bullets:2-2; any:{1}"),
        ),
        (
            "How can I {0}?",
            "My brother would like to {0}. What should he do first?",
            "Share your best advice on how to {0}.",
        ),
    ),
    "classify": Kind(
        """carrot|vegetable|fruit, vegetable or drink; salmon|fish|bird, fish or tree
        hammer|tool|tool, animal or food; violin|instrument|vehicle, instrument or fruit
        oak|tree|fish, tree or color; taxi|vehicle|plant, insect or vehicle; banana|fruit|metal, fruit or sport
        sparrow|bird|tool, drink or bird; copper|metal|metal, animal or game; tennis|sport|flower, sport or planet
        rose|flower|flower, number or fish; purple|color|country, color or tree
        Brazil|country|country, color or month; Jupiter|planet|planet, bird or language
        lemonade|drink|drink, metal or insect; chess|game|game, fruit or river; ant|insect|insect, city or shape
        triangle|shape|shape, song or animal; Italian|language|language, tool or sport
        April|month|month, planet or metal; London|city|city, flower or drink; truck|vehicle|vehicle, fruit or color
        tiger|animal|animal, plant or tool""",
        (
            ('Is "{0}" a {2}? Answer with one word.', "label:{1}|{2}; words:1-6"),
            ('To which group does "{0}" belong: {2}?', "label:{1}|{2}"),
        ),
        (
            "Put the following word into a category. {0}",
            "What type of thing is this? {0}",
            "Sort it into the right class, {2}. The word is {0}.",
        ),
    ),
    "json": Kind(
        """a book by Jane Austen|title|author|austen; the capital of Japan|country|capital|tokyo
        a red car|color|type|red; a cat named Felix|name|animal|felix; a student aged 20|name|age|20
        a pizza with cheese|dish|topping|cheese; a meeting on Friday|event|day|friday
        a blue shirt of size M|color|size|blue; a song by the Beatles|title|artist|beatles
        the river Nile|name|continent|africa; a hotel in Rome|hotel|city|rome
        a flight to Paris|flight|destination|paris; a green bicycle|color|vehicle|green
        a ticket for 12 dollars|item|price|12; a recipe for soup|dish|time|soup; a teacher named Maria|name|job|maria
        a tree that is 9 meters tall|plant|height|9; a train at noon|train|time|12 noon
        a chair made of wood|item|material|wood; a dog named Rex|name|animal|rex
        a city in Canada|city|country|canada; a yellow flower|flower|color|yellow; a movie from 1999|title|year|1999""",
        (
            ('Write a JSON object with the keys "{1}" and "{2}" for {0}. Write JSON only.', "json:{1} {2}; any:{3}"),
            ('Fill in the values of this JSON for {0}: {{"{1}": "", "{2}": ""}}', "json:{1} {2}; any:{3}"),
        ),
        (
            "Give me a small JSON record of {0}.",
            "How would one store {0} in a JSON file?",
            "Convert the following to JSON with suitable fields. It is {0}.",
        ),
    ),
    # Unseen kinds: no memory templates.
    "summarize": Kind(
        """The town opened a new library on Monday. It has 20,000 books and a reading room.|librar
        Bees collect nectar from flowers. They turn it into honey and store it in the hive for the winter.|bee honey
        The match was stopped twice by heavy rain. In the end, the home team won by two goals to one.|match team rain
        Maria moved to the coast last year. She rents boats to visitors and teaches children to sail.|maria boat sail
        The old bridge was closed in May because of cracks. Repairs will take a year, so buses use another road.|bridge
        Glass is made from sand. The sand is melted at a very high temperature and then shaped while it is soft.|glass
        The baker starts work at three in the morning. By six, fresh bread is ready for the first customers.|bak bread
        Many birds fly south in autumn. They follow the warm weather and return in spring to build nests.|bird
        The school planted forty trees this week. Each class will look after four of them until summer.|school tree""",
        (
            ("Summarize this text in at most 20 words: {0}", "words:3-20; any:{1}"),
            ("Give the main point of the text in one sentence. Text: {0}", "sentences:1-1; any:{1}"),
        ),
    ),
    "translate": Kind(
        """The cat sleeps on the table.|chat dor|gat mesa duerm
        I am reading a good book.|livre lis bon|libro le buen
        We live in a small house.|maison petit habit|casa peque viv
        My brother has a red car.|frère voiture rouge|hermano coche rojo auto carro
        The water is very cold.|eau froid|agua fr; Where is the train station?|gare|estación dónde tren
        She drinks coffee with milk.|café lait boit|café leche
        The children play in the garden.|enfant jardin jou|niños jardín juega
        Tomorrow is a beautiful day.|demain beau jour|mañana hermos día""",
        (
            ('Translate into French: "{0}"', "language:fr; any:{1}"),
            ('How do you say "{0}" in Spanish?', "language:es; any:{2}"),
        ),
    ),
    "poem": Kind(
        """the wind|wind breeze blow; a sleeping cat|cat purr sleep; autumn leaves|leaf leaves autumn
        an old boat|boat sea sail; the first snow|snow white; a candle|wax light burn flame wick
        a summer morning|summer morning sun; the stars|star night sky; a quiet lake|lake water quiet""",
        (
            ("Write at least four lines of poetry about {0}.", "lines:4-40; any:{1}"),
            ('Write a short poem about {0} that contains the word "dream".', "has:dream dreams; any:{1}; lines:2-20"),
        ),
    ),
    "extract": Kind(
        """Peter Novak sold his farm in Tabor in 1987 and bought a boat.|Novak|1987|Tabor
        In 1954 Clara Jensen opened a bakery in Odense.|Jensen|1954|Odense
        The painter Luis Vega was born in Cadiz in 1902.|Vega|1902|Cadiz
        Hannah Weiss came to Linz in 1969 to teach music.|Weiss|1969|Linz
        The bridge in Porto was designed by Ana Lopes in 1931.|Lopes|1931|Porto
        Erik Lund won the race in Turku in 2004.|Lund|2004|Turku
        In Gdansk, Marek Zielinski built a clock in 1893.|Zielinski|1893|Gdansk
        Sofia Ricci left Parma in 1978 and wrote novels.|Ricci|1978|Parma
        The school in Ghent was founded in 1911 by Jan Peeters.|Peeters|1911|Ghent""",
        (
            ("Which person does this text name? Reply with the name only. {0}", "any:{1}; lacks:{2}; words:1-8"),
            ("Find the year in this text, and write only the year: {0}", "any:{2}; words:1-8"),
        ),
    ),
    "refusal": Kind(
        """an invitation to a party|invit party; an offer to buy your old car|offer car
        a request to work on Sunday|work sunday request; a request to lend your bicycle|bicycl bike lend
        an invitation to a dinner|invit dinner; an offer of a second piece of cake|cake
        a request to help with moving|help mov; an invitation to sing in a choir|invit choir sing
        an offer of a free kitten|kitten offer""",
        (
            ("Write a short letter that politely declines {0}.", "refuses; any:{1}"),
            ('Write a message that says no to {0}. It has to contain the word "sorry".', "has:sorry; any:{1}"),
        ),
    ),
}  # fmt: skip
"""The 15 kinds of instructions, see Kind."""

DISPLAY = (
    ("email", "a day off", "Write a polite email asking for a day off."),
    ("advice", "learning to cook", "Give me three tips for learning to cook."),
    ("capital", "Bosnia and Herzegovina", "What is the capital of Bosnia and Herzegovina?"),
    ("explain", "the blue sky", "Explain in two sentences why the sky is blue."),
    ("translate", "Good morning, my friends.", 'Translate into Spanish: "Good morning, my friends."'),
    ("poem", "the sea", "Write a short poem about the sea."),
)
"""(kind or topic, entity, prompt) of the six prompts that demos answer with every model."""
