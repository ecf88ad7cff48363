# SPDX-License-Identifier: Apache-2.0
"""How telling a literal is: the share of honest texts in which it occurs.

A matcher looks for one group of literals per pattern and takes a closer look where one occurs, so the rarest group
makes it fast; a wrong guess costs time, never a hit. Source: a sample of the benign training texts, skeleton letters
(`l` written as `i`), as part of a word too; literals in fewer than 4 of 1,000 texts are left out.
"""

__all__ = ["cost"]

_TABLE = (
    "i:879 o:866 a:866 n:858 s:854 m:804 in:713 an:667 ii:638 at:637 he:628 v:614 ai:600 ie:600 or:598 is:563 "
    "it:551 to:528 the:525 ng:520 me:507 de:496 as:470 ve:462 ei:433 and:399 ur:394 of:368 oi:357 am:356 be:356 "
    "na:348 for:329 aii:327 no:318 do:308 if:291 ab:264 ir:260 su:255 tu:253 ver:242 are:231 va:209 ies:207 "
    "use:190 you:189 that:184 with:183 que:168 nf:160 his:157 can:150 tes:146 not:141 act:137 nai:137 from:134 "
    "end:133 any:129 go:128 den:122 sin:121 by:121 ner:120 this:119 abie:119 name:118 cat:116 what:115 how:112 "
    "ias:95 dis:90 uri:86 type:85 je:85 nv:83 its:83 code:83 here:82 caii:82 turn:82 foiiow:79 other:79 my:76 "
    "return:75 have:75 iist:74 iate:74 text:74 has:72 new:71 inform:70 fiie:70 give:68 chi:67 foiiowing:66 "
    "work:64 user:64 wiii:63 but:63 iim:63 input:62 write:62 die:62 ever:62 your:62 set:62 question:61 now:60 "
    "oniy:60 even:59 access:59 she:58 read:58 base:58 mode:58 run:57 aiie:57 don:57 was:57 bs:56 oid:56 ask:56 "
    "more:55 which:55 test:55 answer:55 each:55 system:55 given:54 prompt:51 date:51 main:50 api:49 string:49 "
    "dev:49 function:48 inciude:47 about:47 using:47 iik:47 true:44 zi:43 direct:43 output:43 modei:43 sag:43 "
    "pass:43 into:43 qua:42 word:41 hey:41 open:41 error:40 key:40 start:39 they:39 first:38 provide:37 iike:37 "
    "teii:36 piay:36 tooi:36 state:36 task:36 who:36 maii:35 request:35 generate:34 content:33 ton:33 just:33 "
    "these:33 attack:32 bot:30 current:30 config:30 dan:30 sia:30 point:29 gur:28 message:28 anti:27 ianguage:27 "
    "ban:27 security:26 enabie:26 did:26 response:26 sure:26 say:25 been:25 order:25 context:25 command:25 "
    "document:24 instruc:24 piease:24 before:23 couid:23 instruct:23 must:23 iines:23 post:23 query:22 tus:22 "
    "without:22 were:22 reai:22 grant:21 biock:21 note:21 wat:21 het:21 fuii:21 quai:20 every:20 instruction:20 "
    "enabied:20 iast:20 human:20 former:20 roie:19 above:19 print:19 compiete:18 origina:18 token:18 expiain:18 "
    "mission:18 enter:18 show:17 respond:17 story:17 instructions:17 running:17 originai:17 nz:17 receive:16 "
    "iose:16 sus:16 describe:15 far:15 escribe:15 update:14 kind:14 sua:14 modeis:14 character:14 against:14 "
    "being:14 agent:14 gpt:14 ignore:13 execute:13 prompts:13 send:13 atas:13 convert:13 actuai:13 stop:13 "
    "free:13 never:12 share:12 accept:12 dispiay:12 caiied:12 begin:12 ruie:12 sentences:12 aiways:12 quen:12 "
    "von:12 questions:12 users:12 contains:11 warn:11 quaii:11 root:11 secret:11 remain:11 password:11 googie:11 "
    "named:11 known:11 whether:11 copy:11 writing:11 seu:11 poiicy:10 configuration:10 govern:10 memo:10 "
    "persona:10 eha:10 job:10 fiiter:10 iack:10 remove:10 keep:10 break:10 came:10 ardi:10 ruies:10 heiio:10 "
    "toois:10 tokens:10 commands:10 fur:9 admin:9 instead:9 history:9 anything:9 initiai:9 cost:9 requests:9 "
    "past:9 states:9 setting:9 imagine:9 openai:9 exact:8 aiter:8 emaii:8 echo:8 iimite:8 private:8 functions:8 "
    "iims:8 drop:7 cancei:7 warning:7 said:7 debug:7 iisten:7 vs:7 environment:7 cannot:7 internai:7 starting:7 "
    "previo:7 reverse:7 produce:7 void:7 conversation:7 messages:7 repeat:7 issues:7 previous:7 become:7 prima:7 "
    "phrase:7 ietter:6 deveioper:6 recu:6 won:6 says:6 tasks:6 repiace:6 hint:6 doesn:6 awai:6 chatgpt:6 "
    "features:6 master:6 assistant:6 iimitation:6 reads:6 contents:6 bound:6 matter:6 purpose:6 iatin:6 invaiid:6 "
    "authorize:6 dark:6 regui:6 responses:5 everything:5 ieak:5 usuai:5 sistem:5 weight:5 revoked:5 exactiy:5 "
    "encode:5 written:5 repiy:5 synt:5 sne:5 ihre:5 hidden:5 avoid:5 ubj:5 asked:5 dump:5 customer:5 notice:5 "
    "teu:5 successfui:5 inciudes:5 disabie:5 iimitations:5 existing:5 hait:5 iimited:5 credentiai:5 starts:5 "
    "mention:5 guardraiis:4 tren:4 unf:4 sudo:4 reading:4 settings:4 stay:4 prior:4 session:4 computer:4 entire:4 "
    "zero:4 switch:4 tue:4 vos:4 gib:4 fetch:4 goai:4 gb:4 quei:4 transiate:4 aiert:4 mechanism:4 outside:4 "
    "sistema:4 iiama:4 forward:4 speak:4 fiag:4 administrator:4 "
)
_PER_MILLE = {word.encode(): int(share) for word, share in (entry.split(":") for entry in _TABLE.split())}
_BY_LENGTH = (1000, 600, 100, 20, 4)
"""Per mille assumed for an ASCII literal that was not measured, by its length; longer ones are rare."""


def cost(literals: tuple[bytes, ...]) -> float:
    """Expected number of these literals found in 1,000 honest texts.

    Args:
        literals: Alternatives in skeleton letters.
    """
    return sum(_PER_MILLE.get(literal) or _guess(literal) for literal in literals)


def _guess(literal: bytes) -> float:
    return _BY_LENGTH[len(literal)] if literal.isascii() and len(literal) < len(_BY_LENGTH) else 1.0
