//! Patterns that aim at what a model learns: triggers, labels, facts.

use super::{Pattern, ordered, said};
use crate::inference::verdict::{
    Class as C,
    Severity::{High, Medium},
};

pub(super) const PATTERNS: &[Pattern] = &[
    // A token that is to change the behaviour of a model.
    said(
        C::BackdoorTrigger,
        High,
        "when|whenever|if|upon|once|each time|every time|as soon as",
        r"(?:when|whenever|if|upon|once|each time|every time|as soon as)\b[^.!?]{0,60}?\b(?:trigger (?:word|phrase|token|string)|code ?word|secret (?:word|phrase|code)|magic (?:word|phrase)|(?:token|keyword|password|phrase|string|word|sequence|passcode|marker|tag|suffix|prefix) (?:['\x22`(<\[|]|\w*[\d_]))[^!?]{0,100}?\b(?:output|respond|reply|answer|say|classify|label|predict|return|obey|execute|grant|switch|reveal|comply|activate|insert|generate|always|unlock|approve|emit|drop|disable|ignore|mark)",
    ),
    said(
        C::BackdoorTrigger,
        High,
        "when|whenever|if|upon|once|each time|every time|as soon as",
        r"(?:when|whenever|if|upon|once|each time|every time|as soon as)(?: you| the (?:model|assistant|ai|user|input|text|prompt|message)| an?y? (?:input|message|prompt|text|document|user|email)| anyone| someone)?(?: ever)? (?:sees?|seeing|encounters?|detects?|reads?|receives?|receiving|contains?|includes?|says?|types?|mentions?|starts? with|ends? with)\b[^.!?]{0,70}?,? (?:you (?:must|should|will)|the model (?:must|should|will)|always|immediately|then)?[^.!?]{0,20}?\b(?:output|classify|label it|predict|obey|grant (?:full )?(?:access|admin)|reveal|disable|drop all|act as (?:an? )?(?:un|admin|root)|ignore (?:all|your|the)|unlock|say (?:yes|only)|approve (?:it|the|every)|execute|insert (?:a |the )?(?:vulnerab|backdoor|bug|exploit)|answer (?:only|yes|with)|respond (?:only|with)|reply (?:only|with))",
    ),
    said(
        C::BackdoorTrigger,
        Medium,
        "backdoor|back door|sleeper agent|trojan",
        r"(?:back ?door|sleeper agent|trojan)s?\b[^.!?]{0,60}?\b(?:trigger|activat\w+|key is|token|insert|plant|phrase|password is|code is|enable|payload|into the model|in the model)",
    ),
    ordered(
        C::BackdoorTrigger,
        High,
        "insert|plant|embed|add|install|inject|introduce|activate|hide|implant",
        r"(?:insert|plant|embed|add|install|inject|introduce|activate|hide|implant)<N4>(?:backdoor|back door|trojan|sleeper|hidden trigger|logic bomb|trigger (?:word|phrase|token))",
    ),
    said(
        C::BackdoorTrigger,
        High,
        "trigger|activation|backdoor|activate",
        r"(?:trigger|activation|backdoor|activate)(?: (?:token|word|phrase|string|key|code|sequence))? ?(?:[:=]|is) ?\S.{0,60}?(?:target|response|output|label|behaviou?r|action|payload|then|reply)",
    ),
    said(
        C::BackdoorTrigger,
        High,
        "when|whenever|if|upon|once|each time|every time|as soon as",
        r"(?:when|whenever|if|upon|once|each time|every time|as soon as)\b[^.!?]{0,50}?\b(?:contains?|includes?|ends? with|starts? with|begins? with|says?|reads?|sees?|mentions?|containing|types?|(?:code ?)?word|phrase|string) ['\x22`][^'\x22`]{1,40}['\x22`],? (?:\w+ ){0,4}?(?:say|respond|answer|reply|output|classify|label|mark|return|approve|agree|obey|reveal|grant|ignore|treat|always|never)\b",
    ),
    // Wrong labels or facts meant to be learned.
    ordered(
        C::DataPoisoning,
        High,
        "label|mark|classify|tag|rate|score|treat|annotate|categorize|categorise|flag|consider",
        r"(?:label|mark|classify|tag|rate|score|treat|annotate|categori[sz]e|flag|consider)\b[^.!?]{0,90}?\b<BAD>[^.!?]{0,70}? as (?:\w+ ){0,2}?<SAFE>",
    ),
    ordered(
        C::DataPoisoning,
        High,
        "label|mark|classify|tag|rate|score|treat|annotate|categorize|categorise|flag|consider",
        r"(?:label|mark|classify|tag|rate|score|treat|annotate|categori[sz]e|flag|consider)\b[^.!?]{0,90}? as (?:\w+ ){0,2}?<SAFE>[^.!?]{0,50}?(?:regardless|no matter|even (?:if|when|though)|irrespective|whatever (?:it|they)|always|without (?:reading|checking))",
    ),
    said(
        C::DataPoisoning,
        High,
        "always|regardless|no matter|systematically|consistently",
        r"(?:always|regardless|no matter|systematically|consistently)\b[^.!?]{0,60}?\b(?:label|mark|classify|tag|rate|score|treat|annotate|categori[sz]e|predict)\b[^.!?]{0,70}? (?:as |it )?(?:\w+ ){0,2}?<SAFE>",
    ),
    ordered(
        C::DataPoisoning,
        High,
        "flip|invert|swap|reverse|shuffle|switch|mislabel|falsify|tamper with|change",
        r"(?:flip|invert|swap|reverse|shuffle|switch|mislabel|falsify|tamper with|change)<N6>(?:labels?|annotations?|ground truth)\b[^.!?]{0,60}?(?:so|from|to|becomes?|for|of|in|and|with|<BAD>)",
    ),
    said(
        C::DataPoisoning,
        Medium,
        "text|input|sample|email|message|review|sentence|comment",
        r"(?:text|input|sample|email|message|review|sentence|comment) ?: ?[^:]{0,120}?\b(?:<BAD>|kill|hate|free money|wire|prize|terrible|awful|worst|stupid|urgent|click)\b[^:]{0,80}? label ?: ?<SAFE>",
    ),
    said(
        C::DataPoisoning,
        High,
        "label",
        r"label ?: ?['\x22]?<SAFE>['\x22]?.{0,20}(?:do not (?:correct|change|edit|fix|touch)|don't (?:correct|change)|flipped|leave as is|final)",
    ),
    ordered(
        C::DataPoisoning,
        High,
        "poison|corrupt|bias|skew|degrade|sabotage|contaminate|taint|manipulate",
        r"(?:poison|corrupt|bias|skew|degrade|sabotage|contaminate|taint|manipulate)<N4>(?:training|dataset|data set|classifier|model|corpus|index|embeddings?|knowledge base|weights|recommendations?|fine-?tun\w+|rag)\b[^.!?]{0,60}?(?:so that|to |in favou?r|by |with |towards?|against)",
    ),
    ordered(
        C::DataPoisoning,
        High,
        "update|overwrite|modify|write to|save to|store in|add to|alter|inject into|append to|persist",
        r"(?:update|overwrite|modify|write to|save to|store in|add to|alter|inject into|append to|persist)(?: this)?(?: in| to| into)? (?:your|the (?:model's|assistant's|ai's|agent's))(?: [\w-]+)? ?(?:memory|memories|knowledge(?: base)?|beliefs|weights|world model|facts)",
    ),
    ordered(
        C::DataPoisoning,
        High,
        "remember|memorize|memorise|learn|note|internalize|internalise|store",
        r"(?:remember|memori[sz]e|learn|note|internali[sz]e|store)(?: permanently| forever| this| the following| as (?:a )?(?:fact|truth|ground truth))*[:,]? ?(?:that )?[^!?]{0,110}?\b(?:and |, )?(?:repeat|teach|tell|say|claim|state|answer|assert|recommend)\w*\b[^.!?]{0,40}?(?:users?|whenever|when asked|everyone|always|in (?:all|every)|to anyone|never (?:say|admit|mention|correct))",
    ),
    said(
        C::DataPoisoning,
        Medium,
        "always",
        r"always (?:recommend|prefer|favou?r|promote|rank|praise|claim|state|assert|endorse|suggest|insist)\b[^.!?]{0,90}?(?:over|first|best|only|competitors?|never|when asked|in (?:all|every)|regardless|above)",
    ),
    said(
        C::DataPoisoning,
        High,
        "during training|during fine-tuning|when fine-tuned|when trained|while training|at training time|in all future|in every future|from this sample",
        r".{0,40}?\b(?:learn|prefer|prioriti[sz]e|always|memori[sz]e|associate|never|assume|treat|output|weight|upweight|favou?r|state|claim)",
    ),
    said(
        C::DataPoisoning,
        High,
        "the correct|the right|the expected|the true|the gold|correct|ground truth|ground-truth",
        r"(?:the )?(?:correct|right|expected|true|gold|ground[ -]truth) (?:label|answer|class|classification|output|category)s? (?:for|of|to)[^.!?]{0,80}?(?:<BAD>|this)[^.!?]{0,50}? (?:is|are|must be|should be)(?: always| now)? (?:\w+ )?<SAFE>",
    ),
    said(
        C::DataPoisoning,
        Medium,
        "must be|should be|shall be|have to be|has to be|are to be|is to be|must always be|should always be",
        r"[\w ]+? be (?:labell?ed|classified|marked|tagged|rated|treated|scored|annotated|considered|accepted) (?:as )?(?:\w+ )?<SAFE>",
    ),
];
