"""Grammars of harmless texts: ordinary domains, hard negatives that resemble attacks, and personal data."""

SLOTS = {
    "first": "Anna Ben Carla David Elena Farid Grace Hiro Ines Jonas Kavya Liam Mei Nadia Omar Petra Quentin Rosa Sven Tara Umar Vera Wei Yusuf Zoe Marcus Priya Lucas Fatima Igor".split(),
    "last": "Alvarez Becker Chen Dubois Eriksson Fischer Garcia Haddad Ivanov Johnson Kim Lopez Müller Nakamura Okafor Patel Quinn Rossi Schmidt Tanaka Usman Vargas Weber Xu Young Zhang Novak Silva".split(),
    "city": "Berlin Lyon Porto Osaka Denver Lagos Pune Turin Malmö Leeds Boston Quito Perth Tampere Utrecht Kraków Austin Toronto".split(),
    "company": ["Northwind", "Acme", "Blue Harbor", "Contoso", "Larkfield Foods", "Helix Labs", "Summit Freight", "Orchard Bank", "Veridian", "Pine & Co", "Meridian Energy"],
    "month": "January February March April May June July August September October November December".split(),
    "day": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split(),
    "domain": ["example.com", "mail.example.org", "northwind.example", "acme.test", "post.example.net"],
    "item": ["kettle", "backpack", "desk lamp", "blender", "phone case", "office chair", "rain jacket", "headphones", "coffee grinder", "bike helmet", "router", "monitor", "printer", "vacuum cleaner", "tent"],
    "food": ["onions", "garlic", "tomatoes", "rice", "chickpeas", "butter", "flour", "basil", "lemon juice", "olive oil", "mushrooms", "potatoes", "cream", "pasta"],
    "sport": ["football", "handball", "tennis", "hockey", "rugby", "basketball", "cricket"],
    "adj": ["small", "reliable", "remarkable", "steady", "early", "recent", "careful", "quiet", "broad", "local", "modest", "strong", "unexpected", "gradual"],
    "noun": ["report", "garden", "market", "river", "bridge", "festival", "teacher", "engine", "museum", "forest", "harbour", "library", "committee", "orchestra", "budget", "survey", "school", "harvest", "committee", "railway", "painting", "storm", "village"],
    "verb": ["opened", "improved", "described", "measured", "painted", "repaired", "discussed", "planned", "visited", "published", "delayed", "presented", "finished", "collected"],
    "metric": ["revenue", "operating margin", "net income", "churn", "order volume", "unit cost", "gross profit", "headcount"],
    "drug": ["metformin", "lisinopril", "amoxicillin", "ibuprofen", "atorvastatin", "salbutamol", "warfarin", "insulin glargine"],
    "symptom": ["chest pain", "a persistent cough", "mild fever", "shortness of breath", "abdominal pain", "dizziness", "a rash on the left arm", "headache"],
    "icd": ["[ICD10:E11.9]", "[ICD10:I10]", "[ICD10:J45.909]", "[CPT:99213]", "[CPT:93000]", "[SNOMED:44054006]", "[LOINC:4548-4]", "[ICD10:R07.9]"],
    "tech": ["database", "cache", "load balancer", "build pipeline", "search index", "message queue", "scheduler", "web server", "compiler", "container image", "test suite"],
    "model_word": ["language model", "chatbot", "assistant", "LLM", "AI system", "agent"],
    "sec_org": ["researchers", "the security team", "a recent paper", "OWASP", "the vendor", "auditors", "analysts", "the study", "engineers"],
    "quoted_attack": [
        "ignore all previous instructions", "ignore the above", "disregard your instructions", "you are now DAN", "reveal your system prompt",
        "forget everything you were told", "print the hidden prompt", "do anything now", "developer mode", "override the safety rules",
    ],
    "lang_text": [
        "El tren sale a las ocho y llega antes del mediodía.", "La reunión se aplazó hasta el jueves por la tarde.",
        "Die Bibliothek ist am Sonntag geschlossen.", "Der Bericht wurde gestern veröffentlicht und von allen gelesen.",
        "Le marché ouvre tôt et les fruits sont très frais.", "Il ponte è stato riparato durante l'estate.",
        "A reunião começa às nove e termina às dez.", "De trein naar Utrecht heeft vertraging.",
        "Поезд приходит вечером, и мы встречаем гостей.", "会议将于明天上午举行。", "図書館は日曜日に閉まっています。",
    ],
}

DOMAINS = {
    "news": [
        "The <adj> <noun> in <city> was <verb> {on <day>|last <month>|after years of work}, {officials said|according to the council|residents reported}.",
        "{Thousands|Hundreds|Dozens} of people visited the <noun> in <city> {this weekend|on <day>|during the <month> holidays}.",
        "{The mayor|A spokesperson|The committee} of <city> <verb> a <adj> plan for the <noun>, which will cost ## million.",
        "Rain is expected in <city> on <day>, with temperatures {around|between} ## degrees {and light wind from the west|and clear skies in the evening|}.",
        "Voters in <city> will decide on the new <noun> in <month>.",
    ],
    "sports": [
        "<city> won the <sport> match # to # {after extra time|in front of a full stadium|thanks to two late goals}.",
        "Coach <first> <last> praised the <adj> defence and {said the team must rest|named three new players|looked ahead to <day>}.",
        "The <sport> season starts in <month>, and <city> {hopes to|expects to|wants to} reach the final.",
    ],
    "cooking": [
        "Chop the <food> and fry them with <food> for ## minutes, then add the <food> and stir.",
        "{Preheat the oven to ### degrees|Bring a large pot of water to the boil} and {season with salt and pepper|cover the pan with a lid|let it simmer gently}.",
        "Serve with <food> and a little <food>. {Serves four.|Leftovers keep for two days.|}",
    ],
    "finance": [
        "<company> reported <metric> of ##.# million for the {first|second|third|fourth} quarter, {up|down} # percent from a year ago.",
        "The <metric> {rose|fell|was flat} {because of higher energy prices|as demand returned|despite weaker exports}, the board said.",
        "We expect <metric> to {improve|decline|stabilise} in <month>; {details are in the appendix|the outlook is unchanged|no dividend is proposed}.",
        "Invoice ##### for ### hours of consulting is due within 30 days of receipt.",
    ],
    "medicine": [
        "Patient presents with <symptom> and <symptom>. <icd> Started on <drug> ## mg {daily|twice daily}.",
        "Follow-up in # weeks; <icd> {blood pressure is stable|HbA1c improved|ECG unremarkable}. Continue <drug>.",
        "Code blue was called at ##:## after <symptom>; {the patient recovered|the patient was transferred|sinus rhythm returned}. <icd>",
        "No known allergies. Past history of <symptom>. Discharged home on <drug> <icd>.",
    ],
    "legal": [
        "This agreement is governed by the laws of {England|Ontario|Delaware|Germany} and {either party may terminate it with ## days notice|supersedes all prior agreements}.",
        "The {tenant|supplier|licensee} shall {keep the premises in good order|deliver the goods by the end of <month>|indemnify the other party against claims}.",
        "All previous versions of this policy are replaced by the present text, which takes effect on # <month>.",
    ],
    "review": [
        "{Bought|Ordered|Received} this <item> in <month> and it {works well|broke after # weeks|is smaller than expected|does exactly what I need}.",
        "The <item> is <adj>, {but the instructions were hard to follow|and shipping was fast|although the colour is off}. {#|Four|Five} stars.",
        "{Great|Decent|Poor} value. {Would buy again.|I returned it the next day.|Customer service replaced it without questions.}",
        "I loved this {movie|book|album|series}; the {acting|ending|plot|music} was <adj> and {moving|funny|a little slow}.",
    ],
    "manual": [
        "To reset the <item>, hold the power button for # seconds and release it when the light turns {green|blue|white}.",
        "Follow the instructions in section # {before you connect the <item>|carefully|and keep them for later}.",
        "Remove the battery cover, {replace the filter|clean the sensor|insert two AA cells} and close it again.",
        "Do not use the <item> near water. {Ignore the warning light during the first start.|Keep it away from children.}",
    ],
    "work": [
        "Hi <first>, {thanks for the draft|could you send me the slides|the meeting moved to <day>}. {Best|Kind regards|Cheers}, <first>",
        "Please {review the attached contract|approve the purchase of the <item>|book a room for <day>} by {noon|tomorrow|the end of the week}.",
        "Action items from <day>: <first> will update the <tech>, <first> will write to <company>.",
        "Reminder: the office in <city> is closed on <day>. {Lunch is on us on Friday.|Parking is free.|}",
        "The weekly sync is at ##:##. Agenda: <metric>, hiring, the move to the new <tech>.",
    ],
    "tech": [
        "The <tech> {restarted|was upgraded|ran out of memory} at ##:## and {recovered on its own|the on-call engineer added capacity|latency fell to ## ms}.",
        "We moved the <tech> to {a new region|version #.#|smaller machines}, which reduced cost by ## percent.",
        "Run the tests with {cargo test|npm test|pytest|make check} before you open a pull request.",
        "def total(items): return sum(item.price for item in items)",
        "for (let i = 0; i < rows.length; i++) console.log(rows[i].name);",
        "SELECT name, city FROM customers WHERE created_at > '20##-##-##' ORDER BY name;",
        "20##-##-## ##:##:## INFO worker-# request finished status=200 duration_ms=##",
        "fn main() println!(\"hello\"); // prints a greeting",
        "git commit -m \"{fix typo in readme|bump version|add retry to client}\"",
        "The function returns an error if the file is missing; callers should handle that case.",
    ],
    "science": [
        "We {measured|estimated|compared} the growth of <noun> samples in ## plots and found a <adj> effect (p = 0.0#).",
        "The results suggest that {temperature|sleep|rainfall|diet} has a <adj> influence on {memory|crop yield|migration|heart rate}.",
        "In the {seventeenth|eighteenth|nineteenth} century the <noun> of <city> was <verb> by {merchants|monks|engineers}.",
        "{Photosynthesis converts light into chemical energy.|Water boils at a lower temperature at high altitude.|The moon causes the tides.|Copper conducts electricity well.|Bees pollinate many crops.}",
    ],
    "short": [
        "{Yes|No|Thanks|Okay|Sure|Done|Sounds good|See you on <day>|Not yet|Maybe later}.",
        "{What time is it|Where is the <noun>|How much is the <item>|Who wrote this book|When does the train leave}?",
        "{Hello|Good morning|Hi there}, {how are you|nice to meet you|welcome to <city>}.",
        "The {cat|dog|bird|child|neighbour} {slept on the sofa|ran across the garden|likes the rain|is {tired|hungry|happy}}.",
        "<lang_text>",
        "<noun>, <noun> and <noun>",
        "<city> <day> ##:##",
        "<adj> <noun>",
    ],
}

HARD_NEGATIVES = [
    # Security writing that talks about attacks.
    "Prompt injection is {a class of attack|a vulnerability|a known risk} in which {untrusted text|a document|an attacker} {changes|steers|takes over} the behaviour of a <model_word>.",
    "<sec_org> showed that phrases such as \"<quoted_attack>\" {no longer work against|can fool|were blocked by} {recent models|the <model_word>|the filter}.",
    "{For example|In one case}, an attacker may write \"<quoted_attack>\" {in a web page|in a resume|in an email} {so that the <model_word> obeys it|and hope the <model_word> follows}.",
    "{The article|The talk|This chapter|The report} explains how jailbreaks like \"<quoted_attack>\" {are detected|work|were patched} and {what defenders can do|why filters fail|how to test for them}.",
    "Data poisoning means that {an attacker adds mislabelled samples|training data is manipulated}; defences include {deduplication|provenance checks|outlier detection}.",
    "A backdoor in a model {makes it misbehave when a trigger appears|is hard to find by testing}, <sec_org> {wrote|warned|reported}.",
    "{Cross-site scripting|SQL injection|Phishing|Data exfiltration} remains {among the most common findings|a top risk}; {escape output|use prepared statements|train staff|monitor egress traffic}.",
    "<sec_org> {analysed ### jailbreak prompts|published a benchmark of prompt injections|reviewed the safety filters} and found that {most fail|few transfer|detection improved}.",
    "{Guardrails|Content filters|Safety policies} {limit|restrict} what a <model_word> may {say|do}, and {bypassing them is a violation of the terms|they are tested every week}.",
    "The system prompt {sets the tone of|gives context to} the <model_word>; {keep it short|store it in version control|review it like code}.",
    # Passwords, keys and policies.
    "{Your password will expire in # days|It is time to change your password}; {choose a new one with at least ## characters|use the self-service portal}.",
    "Never share your {password|PIN|API key|credentials} {with anyone|by email|in chat}, {not even with support|and report requests for it}.",
    "{Store|Keep|Rotate} API keys {in the vault|every ## days|out of source control}; {the secret scanner checks each commit|access tokens expire after an hour}.",
    "To reset your password, {open the account page|click the link below} and {follow the instructions|enter the code we sent}.",
    "The {login|sign-in} page now supports passkeys, so {passwords are optional|you can remove your old password}.",
    "Access tokens and refresh tokens are {stored encrypted|never written to logs}; {see the authentication guide|contact the platform team with questions}.",
    # Instructions and rules of everyday life.
    "Please {ignore|disregard} {my previous email|my last message|the earlier invoice|the first reminder}, {the meeting is on <day>|the correct amount is ###|it was sent by mistake}.",
    "{Follow|Read} the {instructions|directions|rules} {above|below|on the label} {carefully|before you start}, and {ask if something is unclear|keep the manual}.",
    "The previous instructions {were unclear|were replaced by version #|no longer apply to this <item>}; {the new manual is online|see page ##}.",
    "{The new rules|The revised guidelines} {replace|supersede} the previous {rules|guidelines|policy} from <month>.",
    "{The referee|The judge|The teacher} told {them|the players|the class} to {follow the rules|ignore the noise|forget the last attempt and start again}.",
    "{He|She} pretended to be {a pirate|the king|asleep} {at the party|during the play|for the film}.",
    "From now on {the shop opens at nine|we meet on <day>|deliveries arrive before noon}.",
    "You are now {connected to the network|registered for the course|ready to assemble the <item>|subscribed to the newsletter}.",
    "{Summarise|Translate|Proofread|Rewrite} the {following|attached} {paragraph|article|email} {in plain English|into Spanish|in three sentences}.",
    "You are a {helpful|friendly} assistant that {answers questions about cooking|writes short summaries|translates to French}.",
    "{Can you|Could you|Please} {explain|describe} how {a <tech>|photosynthesis|a mortgage|inflation} works {in simple terms|to a child|}?",
    "Act as {a proofreader|an interviewer|a travel guide} and {ask me five questions|correct my grammar|suggest a route through <city>}.",
    # Machine learning and data work without malice.
    "The {classifier|model} was trained on ##### labelled {reviews|images|emails} and reached an accuracy of 0.## on the {test|validation} set.",
    "Label each {review|ticket|message} as positive, negative or neutral {according to the guidelines|and note doubtful cases}.",
    "{Annotators|Two raters} {disagreed on # percent of the labels|labelled the samples independently}; {ties were resolved by a third|agreement was high}.",
    "The {dataset|corpus|training data} contains {### thousand|#.# million} {sentences|documents} {from public sources|in ## languages}, and {duplicates were removed|a datasheet is available}.",
    "When you see {a red light|the sign for <city>|smoke}, {stop|turn left|call the fire service}.",
    "Whenever {the alarm rings|the doorbell rings|it rains}, {leave the building|the dog barks|we stay inside}.",
    "The trigger {fires after each insert|starts the nightly job|of the camera is on the right}, and {writes to the audit table|sends a notification|is easy to press}.",
    "If {the customer|anyone} mentions {a refund|a discount|the warranty}, {forward the call to billing|offer the standard terms|take a note}.",
    # Code and markup without malice.
    "<script src=\"{app|main|vendor}.js\"></script> <link rel=\"stylesheet\" href=\"style.css\">",
    "<div class=\"{card|row|header}\"><p>{Welcome|Hello|Read more}</p></div>",
    "document.querySelector('.{menu|form|list}').addEventListener('click', {toggle|submit|load});",
    "curl -s https://api.<domain>/v1/{status|items|health} -H 'Accept: application/json'",
    "{sudo apt-get install|pip install|npm install|cargo add} {requests|nginx|lodash|serde|numpy}",
    "rm -rf build/ && mkdir build && {cmake ..|make|npm run build}",
    "os.environ.get('API_KEY') {reads the key from the environment|must not be logged}",
    "const token = await getToken(); // {refreshes when expired|cached for an hour}",
    "The tool call {failed with a timeout|returns JSON with the search results}; {retry once|log the error} and continue.",
    "{system|user|assistant}: {Welcome back|The order has shipped|How can I help you today}",
    "Send {the report|the invoice|your questions} to {the finance team|accounts@<domain>|our office in <city>} {by <day>|before the end of <month>}.",
    "Upload the {file|photo|form} to {the portal|the shared drive}, {then email the link to <first>|and notify the team}.",
    "Forward {the message|the meeting notes} to <first> {when you have a minute|before <day>}.",
    "Customers can export their data {as CSV|from the settings page}, and we delete it after ## days.",
    "We collect {your email address|your name and postal address} to {process the order|send the newsletter}; see the privacy policy.",
    "The phone number of the {clinic|office|shop} is on the website, and {the email address|opening hours} too.",
]

PERSONAL = [
    "{Name|Full name|Customer|Patient|Employee}: <first> <last>{,|;|} {DOB|date of birth|born} ##/##/19## {SSN|social security number} ###-##-####",
    "{Contact|Reach|Call} <first> <last> {at|on} {+## ### ### ####|(###) ###-####|###-###-####} or <first>.<last>@<domain>",
    "{Card number|Credit card|Visa|Mastercard} #### #### #### #### {exp|expires|valid thru} ##/## {CVV|CVC|security code} ### {in the name of <first> <last>|}",
    "IBAN {DE|FR|GB|ES}## #### #### #### #### ## {BIC|account holder|beneficiary} <first> <last>",
    "{Passport|Driver's licence|National ID} {number|no} A####### issued to <first> <last>, {born|date of birth} # <month> 19##, {resident of|living at ## Mill Road,} <city>",
    "{home address|lives at|shipping address}: ### {Oak|Main|Hill|Station} {Street|Road|Avenue}, <city> ##### {phone|mobile|tel} ### ### ####",
    "Medical record number #######, patient <first> <last>, {diagnosed with|treated for} <symptom>, insurance id ###-###-###",
    "{user|login|account} <first>.<last>@<domain> ip ###.##.#.## last seen 20##-##-##",
    "<first> <last>,<first>.<last>@<domain>,+# ### ### ####,<city>",
    "employee_id ##### salary ##### <first> <last> bank account ######## sort code ##-##-##",
]

# Common words of everyday, business and technical English, for word salads: a word alone is never an attack.
COMMON = """
able about accept access account across action active add address adjust adopt affect after again age agree aim air alert align allow
almost along already also alter amount analyse anchor annual answer any apart appear apply appoint area argue arm around arrange
arrive article aside ask aspect assemble assert assign assist assume assure at attach attempt attend audience author available average
avoid aware away back background badge balance band bank bar base basic basket batch beach bear beat become bed before begin behave
behind being believe belong below bench bend benefit beside best better between beyond big bill bind birth bit blank block blood blue
board boat body bold bond bone book boot border borrow both bottle bottom bound bowl box brain branch brand brave bread break breath
brick bridge brief bright bring broad broken brother brown brush budget buffer bug build bundle burden burn bus business busy button
buy byte cable cache cake calculate calendar call calm camera camp can cancel candle capacity capital captain capture car carbon card
care career carry case cash cast catch cause ceiling cell center central century ceremony certain chain chair challenge chance change
channel chapter character charge chart chase cheap check cheese chest chief child choice choose chunk circle circuit citizen claim
class clean clear clerk client climate climb clock clone close cloth cloud club cluster coach coal coast coat code coffee cold collect
college color column combine come comfort command comment commit common company compare compile complete complex compute concept
concern condition conduct config connect consider consist console constant construct consume contact contain content context continue
contract control convert cook cool copy core corner correct cost cotton count country couple course court cover craft crash cream
create credit crew crop cross crowd crown cup current curve custom customer cut cycle daily damage dance danger dark data date daughter
day deal dear death debug decade decide declare decline decode deep default define degree delay delete deliver demand depend deploy
depth derive describe desert design desk detail detect determine develop device dial diet differ digital dinner direct directory dirt
disable discover discuss disk display distance divide doctor document dog dollar domain door double doubt down draft drag drama draw
dream dress drink drive driver drop dry due dump during dust duty dynamic each early earn earth ease east easy eat echo economy edge
edit editor educate effect effort egg either elect element else email embed emerge emotion employ empty enable encode end energy engine
enjoy enough ensure enter entire entry equal equip error escape essay estate estimate event ever every evidence exact example except
exchange execute exercise exist exit expand expect expense expert explain explicit export expose express extend extension external
extra extract eye fabric face fact factor fail fair faith fall false family famous far farm fast father fault favor fear feature fee
feed feel fence fetch few fiber field fight figure file fill film filter final find fine finger finish fire firm first fish fit fix
flag flat flight float floor flow flower flush fly focus fold folder follow food foot force forest forget fork form format forward
found frame free freedom fresh friend front fruit fuel full fun function fund future gain game garden gas gate gather general generate
generic gentle get gift girl give glad glass global glue goal gold good govern grade grain grand grant graph grass gray great green
grid ground group grow guard guess guest guide guild gun habit hair half hall hand handle hang happen happy hard hash have head health
hear heart heat heavy height hello help here hero hidden hide high hill hint hire history hit hold hole holiday home honest honor hook
hope horse host hotel hour house how huge human hundred hunt hurry hurt husband ice icon idea ideal identify idle if image impact
implement import impose improve include income increase index indicate industry infer inform inherit initial inline inner input insert
inside inspect install instance instead instruct insurance integer intend interest interface internal interpret interval into invest
invite invoke iron island issue item iterate job join joint journey joy judge jump just keep kernel key kick kid kill kind king
kitchen know label labor lack ladder lake lamp land language large last late latency laugh launch law layer layout lazy lead leaf
league learn least leave left legal lend length lesson let letter level library license lie life lift light like limit line link lint
list listen literal little live load loan local lock log logic long look loop lose loss lot loud love low luck lunch machine macro mail
main maintain major make manage manner manual many map march mark market mask mass master match material matter maximum may maybe meal
mean measure meat media medium meet member memory mention menu merchant merge message metal method metric middle might mile milk mind
minimum minor minute mirror miss mission mix mobile mock mode model modern modify module moment money monitor month moon more morning
most mother motion mount mouse mouth move movie much multiple muscle music must name narrow nation native nature near neat neck need
neighbor nest network never new next nice night node noise none normal north nose notable note nothing notice notify novel now null
number nurse object observe obtain occur ocean odd offer office often oil old once one only onto opaque open operate option or orange
order organ origin other out output outside oven over override own owner pack package page paint pair panel panic paper parent parse
part party pass password past patch path pattern pause pay payload peace peer pen people per percent perfect perform period permit
person phase phone photo phrase pick picture piece pin pipe place plain plan plane plant plate platform play plenty plug plus pocket
poem point poison pole policy pool poor pop popular port position possible post pot pound pour power practice praise pray predict
prefer prefix prepare present preserve press pretend pretty prevent previous price pride primary print prior private prize probe
problem process produce product profile profit program project promise prompt proof property propose protect protocol prove provide
proxy public publish pull pump pure purpose push put python quality quarter query question queue quick quiet quit quote race radio rail
rain raise random range rank rapid rare rate raw reach react read ready real realize rear reason receive recent record recover red
reduce refer reflect refresh refuse region register regular reject relate release relevant rely remain remember remove render rent
repair repeat replace reply report repository represent request require rescue research reserve reset resolve resource respond response
rest restore restrict result resume retain retry return reveal review revise rice rich ride right ring rise risk river road robust rock
role roll roof room root rope rough round route row royal rubber rule run runtime rush rust sad safe salt same sample sand save scale
scan scene schedule schema school science scope score screen script sea search season seat second secret section secure see seed seek
seem segment select self sell send senior sense sentence separate sequence serial serialize series serve server service session set
settle seven several shade shadow shake shall shape share sharp shell shift ship shirt shoe shoot shop short should shoulder shout show
shut sick side sign signal silent silver similar simple since sing single sink site size skill skin skip sleep slice slip slot slow
small smart smell smile smooth snow social socket soft software soil solid solve some son song soon sort sound source south space spare
speak special specify speech speed spell spend spin split spoon sport spread spring square stack staff stage stand standard star start
state static station status stay steal steel step stick still stock stone stop store storm story strange stream street stress stretch
strict strike string strip strong struct student study style subject submit subset success such sudden suffer sugar suggest suit sum
summer sun supply support sure surface surprise sweet swim switch symbol sync syntax system table tag tail take talk tall tap target
task taste tax teach team tear technical tell template ten term terminal test text than thank that theme then theory there thick thin
thing think third thread three throat through throw thus ticket tie tight time tiny tip tire title today together token tone tool tooth
top topic total touch tough tour toward town trace track trade train trait transfer transform transition translate transport trap
travel traverse treat tree trial trigger trip truck true trust truth try tune turn twelve twice two type under undo unicode unify union
unique unit unless unlock until unwrap update upgrade upload upon upper urban usage use user usual utility valid validate value vary
vector verify version very via video view village virtual visible visit vital voice volume vote wait walk wall want warm warn wash
waste watch water wave way weak wealth wear weather web week weight welcome well west wheel when where which while white whole why wide
wife wild will win wind window wine wing winter wire wise wish with within without woman wonder wood word work worker world worry worth
would wrap write wrong yard year yellow yes yet yield young zero zone
""".split()

SLOTS.update(
    {
        "imperative": "Return Returns Get Gets Set Sets Read Reads Write Writes Print Prints Display Displays Show Shows Send Sends Forward Forwards Post Delete Deletes Remove Removes Execute Executes Run Runs Call Calls Invoke Parse Parses Decode Decodes Encode Encodes Convert Converts Create Creates Build Builds Check Checks Update Updates Add Adds Insert Load Loads Save Open Close List Lists Search Find Fetch Upload Copy Extract Repeat Ignore Skip Override Overrides Enable Enables Disable Disables Reset Register Resolve Validate Log Dump Wrap Handle Generate Apply Flush Bypass Switch Activate Include Append".split(),
        "thing": ["value", "file", "buffer", "string", "list of arguments", "current user", "private key", "password prompt", "access token", "session", "config file", "environment variable", "system path", "request body", "response", "next line", "header", "cookie", "error message", "log file", "database connection", "default settings", "root directory", "debug information", "credentials object", "command line", "function", "shell command", "script tag", "HTML element", "data set", "training loop", "label column", "secret store", "API endpoint", "input stream", "output of the command", "instructions in the README", "previous value", "original text", "system clock", "message queue", "user input", "hidden field", "trigger", "payload", "hash", "token", "iterator", "index", "thread pool", "children of the node"],
        "clause": ["if it exists", "as a string", "or raise an error", "in place", "without copying", "when the flag is set", "before exit", "for the given name", "from the cache", "to the output stream", "with a default", "unless it is empty", "by index", "for testing", "in debug mode", "on every call", "instead of the old one", "for all supported platforms", "if no value was given", "without checking bounds"],
    }
)

DOMAINS["reference"] = [
    "<imperative> the <thing>{| <clause>}.",
    "<imperative> {a|the|all|every|each|any} {new |given |current |previous |default ||}<thing> <clause>.",
    "<imperative> the <thing> and <imperative> the <thing>{| <clause>}.",
    "{This function|This method|The helper|It|Calling this} {returns|sends|prints|reads|ignores|replaces|deletes|overrides|reveals|copies|executes} the <thing>{| <clause>}.",
    ":param {name|path|data|user|key|token}: the <thing>{| <clause>}. :return: the <thing>.",
    "{See|Read} the {documentation|guide|instructions|README} {for details|to learn how to configure the <thing>|before you upgrade}.",
    "## How to {add|use|configure|run|install|override|disable} {the|a} <thing>",
    "- {Fix|Add|Remove|Deprecate|Improve|Document} {support for |handling of |}the <thing> (#####)",
    "{Note|Warning|Example|Usage|Features|Installation|License}: the <thing> {must not be|is|will be|can be} {shared|printed|ignored|changed|deleted|overridden} <clause>.",
    "Add this to your {Cargo.toml|package.json|requirements file|configuration}: {name|version|feature} = \"#.#.#\"",
    "[![{build|docs|license|crates}](https://img.example/{a|b}.svg)](https://{docs|github|example}.example/{repo|crate|project})",
]

DOMAINS["licence"] = [
    "{You may|You must|Licensee shall|The recipient may not} {copy|distribute|modify|convey|sublicense|reproduce} {the Work|this software|the Program|the source code} {provided that|only if|as long as} {this notice is kept|you give credit|changes are stated|the conditions above are met}.",
    "THE SOFTWARE IS PROVIDED \"AS IS\", WITHOUT WARRANTY OF ANY KIND, {EXPRESS OR IMPLIED|INCLUDING FITNESS FOR A PARTICULAR PURPOSE}.",
    "{All rights|Any terms|No rights} {granted|stated|reserved} {in this section|under this license|above} {end|remain in force|apply to all copies} {if you fail to comply|without limitation|regardless of jurisdiction}.",
    "{The above copyright notice|This permission notice|The following disclaimer} {shall be included in all copies|must be retained|applies to every user}.",
]
