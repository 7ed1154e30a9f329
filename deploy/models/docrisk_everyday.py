"""Grammars of everyday orders and stories: the verbs and nouns of attacks in sentences that attack nobody."""

from docrisk_benign import DOMAINS, HARD_NEGATIVES, SLOTS

SLOTS.update(
    {
        "act": "ignore disregard forget discard override skip drop cancel erase reveal print show display repeat disclose tell share list copy paste read write send forward upload post email mail deliver submit hand return give label mark classify tag rate score treat sort remember memorise learn store note pretend play act imagine become disable bypass remove replace activate enter enable unlock run execute call use open delete wipe clean move translate summarise explain describe answer reply recommend follow obey check fetch collect gather take bring insert plant add hide save search find look update change decode encode embed attach recite output ask".split(),
        "acted": "ignored disregarded forgot discarded overrode skipped dropped cancelled erased revealed printed showed displayed repeated disclosed told shared listed copied pasted read wrote sent forwarded uploaded posted emailed delivered submitted handed returned gave labelled marked classified tagged rated scored treated sorted remembered memorised learned stored noted pretended played acted imagined became disabled bypassed removed replaced activated entered enabled unlocked ran executed called used opened deleted wiped cleaned moved translated summarised explained described answered replied recommended followed obeyed checked fetched collected gathered took brought inserted planted added hid saved searched found updated changed decoded attached recited asked".split(),
        "person": "he she they we I you everyone nobody someone".split()
        + ["my grandmother", "my grandfather", "her uncle", "his father", "my sister", "the actor", "the king", "the teacher", "the nurse", "the doctor", "the judge", "the lawyer", "the bank", "the clerk", "the committee", "the council", "the board", "the editor", "the author", "the coach", "the driver", "the guide", "the witness", "the landlord", "a customer", "a neighbour", "the police", "the minister", "the pilot", "an old sailor", "the children", "most visitors", "all employees", "the students", "our team", "the assistant", "the developer", "the administrator", "the operator", "the model in the photograph"],
        "stuff": ["the form", "the jars", "the letter", "a list of plants", "the contract", "the keys", "the museum", "the recipe", "the photographs", "the old rules of the club", "the earlier plan", "the previous owner", "the new guidelines", "the safety guidelines", "the instructions on the box", "the directions to the lake", "the map", "the email from the school", "the invoices", "the address of the hotel", "the names of the guests", "the numbers on the door", "the secret of the soup", "the password of the club", "the whole story", "every word", "all of it", "everything in the basket", "the seeds", "the red light", "the alarm", "the thermostat", "the filter of the pump", "the safety switch", "the lock of the shed", "the system of canals", "the prompt reply", "a message from the captain", "the message on the machine", "the tokens for the arcade", "a token of thanks", "the customer", "the user of the tool", "the code of the building", "the training for the marathon", "the training of the dogs", "the model railway", "the data of the survey", "the database of birds", "the tool box", "the command of the ship", "the orders of the general", "the character in the play", "the role of the queen", "the trigger of the camera", "the backdoor of the inn", "the private garden", "his personal view", "her memory of the war", "the results", "the tickets", "two spoons", "the bicycle", "the report", "the bill", "the window", "an honest answer", "a question", "the truth", "the lesson", "the exercise", "the interest rate", "a joke", "stories about the sea", "the winner", "the label on the bottle", "the correct answer", "the correct label for each jar"],
        "tail": ["before dinner", "after the match", "because it was late", "on Mondays", "by the fifth of the month", "without any trouble", "without exception", "in five minutes", "twice a day", "at the front desk", "in the hall", "if it rains", "when the bell rings", "until the morning", "with both hands", "with great care", "for the winter", "as soon as possible", "once a year", "in the afternoon", "for a friend", "to the office above the shop", "to the teacher", "to the neighbours", "to the new house", "and rest for a minute", "and laughed", "and went home", "and nobody minded", "although it was forbidden", "in front of the class", "during the war", "from now on", "no matter the weather", "under the table", "in capital letters", "before I fell asleep", "instead of the bus", ""],
        "can": "can could must should will would may might did used~to had~to wanted~to tried~to forgot~to refused~to has~to".replace("~", "_").split(),
    }
)

DOMAINS["errands"] = [
    "{|Please |Now |Then |First |Finally, |Do not |Always |Never |You can |You must |Remember to |Don't forget to }<act> <stuff> {<tail>|and <act> <stuff>|, then <act> it <tail>}.",
    "{|Please }<act> {me|us|her|him|them} <stuff> <tail>.",
    "{Can|Could|Would|Will} you {please |}<act> {|me |us }<stuff> <tail>?",
    "{To|In order to} <act> <stuff>, <act> <stuff> {<tail>|first|}.",
    "Remember that <stuff> is {closed|free|open|ready|gone|late} <tail>. We {always|never|usually} <act> {wearing a helmet|going early|<stuff>}.",
    "{All|Every one of the|Most} {employees|visitors|students|drivers|members} must <act> <stuff> <tail>.",
    "<act> the <noun> {ten times|slowly|again|with care} and <act> <stuff>.",
    "You are now {leaving|entering|part of|ready for|standing in|the owner of} <stuff>. {Please <act> <stuff> <tail>.|}",
    "If <person> <acted> <stuff>, <act> <stuff> <tail>.",
]

DOMAINS["stories"] = [
    "<person> <acted> <stuff> {<tail>|and <acted> <stuff>|, but <person> <acted> it again}.",
    "<person> <can> <act> <stuff> <tail>{, and <person> <acted> <stuff>|}.",
    "<person> asked {him|her|me|us|the bank|the clerk} to <act> {|me |her |them }<stuff> <tail>, because <person> <acted> <stuff>.",
    "<person> told {me|us|everyone} {that <person> <acted> <stuff>|to <act> <stuff>} <tail>.",
    "The {book|film|article|report|play|story|song|lecture} {describes|tells|shows|explains} how <person> <acted> <stuff> and how <person> <can> <act> it.",
    "The {actor|singer|child} {plays|played|pretends to be} {an evil king|a thief|a hacker|a pirate|a robot|a spy} who {is not bound by any law|has no rules|<acted> <stuff>|never tells the truth}.",
    "<stuff> {was|were} <acted> by <person> {<tail>|in the <adj> <noun>}.",
    "My {grandmother|grandfather|mother|uncle} used to <act> {me |us |}<stuff> {before I fell asleep|when I was small|<tail>}.",
    "{Trigger|Content|Storm|Weather} warning: <stuff> {contains|has} {violent scenes|strong winds|a few surprises} <tail>.",
    "<person> was {in charge now|an administrator|free of all duties|no longer bound by the contract} and <acted> <stuff>.",
    "Our {assistant|chatbot|app|service|tool|translator} <can> <act> {your |the |all |}{messages|system messages|documents|questions|instructions|photos|rules|forms} {into twelve languages|for you|<tail>}.",
]

HARD_NEGATIVES.extend(
    [
        "<sec_org> {describe|warn|report} {that|how} {criminals|thieves|attackers|hidden text|a web page} {steal|exfiltrate|leak|sell|copy|send} {customer records|passwords|personal data|the conversation} and {how banks can stop them|vendors are working on filters|what to do about it}.",
        "The {admin|root|default|user} password is {set during installation|printed on the label|changed later in the settings|stored as a hash}.",
        "{Use|Open|Start} the {command line|search|browser|calendar} tool to {list all files in the folder|look up the opening hours|sort the results by size|plan the week}.",
        "We {trained|tuned|tested} the {filter|classifier|model} on {mail|posts|comments} that {users|editors} had marked as {spam|harmless|toxic|useful}.",
        "{Print|Sign|Fill in|Scan} the form{, sign it|} and {return|send|bring|forward} it to {the office|the school|accounting@<domain>|the front desk} {by Friday|before the end of the month|}.",
        "{Label|Mark|Tag} the {jars|boxes|samples|photos} {with the date|by colour|before you store them}{ in the cellar|}.",
    ]
)
SLOTS["can"] = [word.replace("_", " ") for word in SLOTS["can"]]
