#!/usr/bin/env python3
"""
Generate "symbols", a long-tailed instance segmentation dataset in LVIS v1 format.

The objects are pictograms of the DejaVu Sans font that matplotlib installs, drawn like stickers
(the symbol in one colour on a body of another, enclosed areas filled) on textured backgrounds. The
masks are exact, nothing is downloaded, and the same arguments always give the same dataset.
"""

import argparse
import json
import math
import os
import sys
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import pycocotools.mask as mask_util
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from tqdm import tqdm

from eql_seesaw.atomic_write import atomic_folder
from eql_seesaw.data.frequency_groups import COMMON_MAX_IMAGES, RARE_MAX_IMAGES, frequency_groups

# Raised when the same arguments give another dataset than before.
VERSION = 1

# Shares of rare and common classes in LVIS v1 (337 and 461 of 1,203).
RARE_SHARE = 0.28
COMMON_SHARE = 0.38

MAX_IMAGE_COUNT = 600  # of the most frequent class, unless told
REPEAT_PROBABILITY = 0.1  # that a class comes twice in an image that holds it
NOT_EXHAUSTIVE_PROBABILITY = 0.25  # that a validation image leaves such a second object out
JPEG_QUALITY = 90
NUM_NEGATIVES = 8  # classes verified as absent, per federated image (LVIS has about 9)

OBJECT_SIZES = (0.16, 0.55)  # longest side over the image size, log-uniform
MAX_ROTATION = 25.0  # degrees, either way
MIN_VISIBLE = 0.25  # share of an object that others must leave visible
NUM_POSITIONS = 3  # tried for each object
GLYPH_SIZE = 96  # pixels; longest side of the stored symbols, which are then only scaled down
GLYPH_MARGIN = 5  # pixels at that size; width of the body's rim around the symbol

# Symbols of DejaVu Sans in a fixed order. First pictograms, picked by eye: things that one can name
# and tell apart at 20 pixels; then what is usable of Unicode's blocks of symbols, arrows and
# mathematics, and of the letters of its scripts. Left out are what is not neutral (religious and
# political symbols, weapons, hazards, gestures), glyphs that are tiny or needle-like, letters with
# accents, and what looks like an earlier symbol or its mirror image: at 16 x 16 pixels the cosine
# of the two is above 0.93. So classes stay apart under horizontal flips.
SYMBOLS = (
    "☂☃☁☀★☎☕☘☛☾☺♚♛♜♝♞♟♔♖♘♠♥♦♣♨♪♬♭♯♻♿⚀⚁⚂⚃⚄⚅⚓⚖⚗⚘⚙⚛⚠⚡⛃✂✆✇✈✉✍✎✒✔✘✦✪✯✳✴✺✿❀❂❄❆❖❢❦❶➔➤➲⌂⌘⌨⌫⏎⏏⌬🐭🐮"
    "🐱🐵😀😎😭😱😷▣▦◉◐⬟⬆♆♎♏♉♊♋♌∞☄☆☇☈☉☊☋☌☍☏☐☑☒☔☖☗☜☡☹☻☼☽♃♄♅♈♍♐♑♒♓♕♗♙♡♢♤♧♩♫♲♳♵♶♸♺♼♽♾"
    "⚆⚇⚉⚞⚟⚪⚬⛀⛁⛂✁✃✄✏✐✑✓✕✖✗✢✧✩✫✬✭✮✰✱✲✵✹✻✾❁❃❅❈❉❍❏❐❚❛❜❝❞❡❤❥❧❹❻❿➀➁➂➃➄➅➆➇➈➉➋➓➘➙➚➛➜➝➟➠➢➣➥➧➨➩➪➫➬➭➮➯➱➳➴"
    "➵➶➷➸➹➺➻➼➽➾😂😄😋😑😓😕😖😗😘😜😟😦😨😰😳😴😸😹😼🙀■▤▥▧▩▬▭▮▯▰▱△▵▶▷▹►▻▼▽▿◃◆◇◈◊○◌◍◎◒◓◔◕◖◘◙◚◛◜"
    "◞◟◠◡◢◤◧◩◪◬◭◯◴◵◸◺⬀⬁⬂⬃⬄⬇⬈⬊⬍⬎⬏⬒⬓⬖⬘⬙⬚⬠⬡⭓⭔⌀⌁⌃⌄⌅⌆⌌⌎⌐⌑⌙⌜⌝⌞⌟⌤⌥⌧⍳⍴⍵⍺⍽⎇⎔⎧⎨⎩⎫⎬⎭⏣⏨🁣🁨🁷🁺🂀🂏🂡🂱🂽🃂"
    "🃏🃓🃟←↑↓↔↕↘↚↛↜↝↞↟↡↢↤↥↦↧↨↩↫↭↮↯↰↲↴↵↶↸↹↺↼↽↾⇂⇄⇅⇇⇈⇊⇋⇍⇎⇏⇐⇑⇓⇕⇖⇗⇘⇙⇚⇜⇞⇟⇠⇡⇣⇤⇦⇧⇩⇪⇫⇬⇭⇮⇯⇰⇱⇲⇴⇶⇷⇹⇺⇽⇿⟰⟱⟲⟴"
    "⟵⟷⟸⤆⤊⤋⥀⥁∀∁∂∃∄∅∆∇∈∉∊∋∌∎∏∐∑∓∔∕∖∗√∛∜∝∟∠∡∢∤∦∧∨∩∪∫∬∭∮∯∰∴∵∷∸∹∺∻∾∿≀≁≂≃≄≅≆≇≈≉≋≍≎≏≐≑≒≔≖≗≘≙≚≛≜≝≞≟≠≡≢"
    "≣≤≦≨≩≪≬≭≮≯≰≱≲≳≶≷≸≹≺≻≼≽≾≿⊀⊁⊂⊄⊅⊆⊈⊉⊊⊋⊎⊏⊑⊓⊔⊕⊖⊗⊘⊙⊛⊜⊞⊢⊤⊥⊦⊧⊨⊩⊪⊫⊬⊭⊮⊯⊰⊱⊲⊴⊶⊸⊹⊺⊻⊼⊽⊾⊿⋀⋁⋂⋃⋄⋇⋈⋉⋋⋎⋏⋐⋒⋓⋔⋕⋖"
    "⋘⋚⋜⋞⋟⋠⋡⋢⋣⋤⋦⋧⋨⋩⋪⋫⋬⋭⋰⋲⋵⋶⋷⋸⋹⋽⋿⧎⧏⧑⧫⧺⧻⨌⨍⨎⨏⨒⨓⨔⨖⨗⨛⨜⨯⩪⩫⩽⩾⪁⪂⪃⪅⪆⪇⪈⪉⪊⪋⪌⪍⪎⪑⪒⪓⪔⪕⪖⪙⪛⪝⪟⪠⪮⪯⪰⪱⪲⪳⪵⪷⪸⪹⪺⫹℀℁℃℄℅"
    "℆℈℉℔№℗℘℞℟℠℡™℣℥℧℩℮Ⅎ℺℻⅀⅁⅂⅃⅄⅋ⅎ①②③⑤⑥⑦⑨⑩0123456789ABCDEFGHKLMNOPQRSWXYZabdefghkmnoqrstuvxyz©¬®±"
    "²³¼½¾ÆÐØÞßæð÷øþĦħĸŁłŊŋŒœŦŧƀƁƃƄƆƇƈƊƌƍƏƑƒƓƔƕƖƘƚƛƜƝƞƟƢƣƤƦƧƩƪƫƬƭƮƲƳƴƶƷƺƼƽƾƿǁǝǤǥǶǷȜȝȡȢȣȤȥȴȵȶȸȹȺ"
    "ȻȼȽȾȿɀɁɂɃɄɆɇɈɉɊɍɎɏͰͲͳͶͷͼͽΓΔΞΠΦΨΩβγδζθκμνξπςστυφχψϏϗϘϙϚϛϝϞϟϠϡϢϣϤϦϧϨϩϪϫϬϭ϶ϺϻЂЄЉЊЋЏДЖЗКЛУФЦЧШ"
    "ЩЪЫЬЮЯвджлмнпфцчшщъыьэяђљњћџѠѢѣѤѦѧѨѩѪѬѮѯѰѱѴѵѸѹѺѼѽѾҀҁ҂ҊҋҍҐґҒғҔҗҘҙҚҞҟҠҡҢңҤҦҨҩҪҫҬҭҰұҲҴҵҶҷҸҹҺҼ"
    "ҾӃӅӇӈӉӋӌӍӡӶӺӻӼӿԂԃԄԅԆԇԈԉԋԌԍԎԏԒԓԔԕԖԗԘԙԠԢԤԥԱԲԳԴԵԶԷԸԹԺԻԽԾԿՀՁՂՃՄՅՆՇՉՊՋՌՎՏՐՒՔՖաբդեէըթժիխծկձճմնչպ"
    "ջռվտփքֆႠႡႢႣႤႥႦႧႨႩႪႫႬႭႮႯႰႱႲႴႵႶႸႹႺႻႼႽႾႿჀჁჂჃჄჅაბგდევზთიკლმნოპჟრსტუფქღყშჩცძჭჯჰჱჲჳჴჵჶჷჸჹჺ\u05d0"
    "\u05d1\u05d2\u05d3\u05d4\u05d6\u05d8\u05da\u05db\u05dc\u05dd\u05de\u05e0\u05e2\u05e3\u05e4"
    "\u05e5\u05e6\u05e7\u05e8\u05e9\u05ea\u0621\u0628\u0629\u062a\u062b\u062c\u062e\u062f\u0630"
    "\u0631\u0632\u0633\u0634\u0635\u0637\u0639\u063a\u0641\u0642\u0643\u0644\u0645\u0646\u0647"
    "\u0648\u0649\u064a١٢٣٤٥٦٧٨٩\u066e\u066f\u0679\u067b\u067c\u067d\u0680\u0681\u0688\u0689"
    "\u068a\u068b\u068c\u068d\u068e\u068f\u0691\u0692\u0693\u0695\u0696\u0697\u0698\u069e\u06a0"
    "\u06a1\u06a2\u06a5\u06a8\u06a9\u06aa\u06ad\u06ae\u06af\u06b2\u06b3\u06b4\u06b5\u06b7\u06b8"
    "\u06b9\u06ba\u06bb\u06bc\u06bd\u06be\u06c6\u06c7\u06c8\u06cb\u06ce\u06d0۴۵۶\u07c2\u07c4"
    "\u07c5\u07c6\u07c7\u07c9\u07cc\u07cd\u07ce\u07cf\u07d0\u07d1\u07d2\u07d3\u07d4\u07d5\u07d6"
    "\u07d8\u07d9\u07da\u07db\u07dc\u07dd\u07de\u07df\u07e0\u07e1\u07e2\u07e3\u07e4\u07e5ກຂຄງຈຊ"
    "ຍດຕຖທນບປຜຝພມຢຣລວສຫອຮຯະາຽເແໂໃໄ໑໒໓໔໕໖໗໘໙ᐁᐂᐄᐅᐆᐋᐍᐏᐐᐒᐓᐔᐕᐗᐘᐙᐚᐞᐟᐥᐦᐫᐬᐭᐮᐰᐲᐳᐴᐵᐹᐺᐻᐼᐽᐾᑀᑁᑂᑃᑄᑅᑆᑇᑈᑉᑍᑏᑑᑔᑖᑗ"
    "ᑙᑛᑜᑝᑞᑟᑠᑢᑥᑦᑧᑨᑩᑪᑫᑬᑮᑯᑰᑱᑲᑳᑴᑵᑶᑷᑸᑹᑺᑻᑼᑽᑾᒂᒃᒅᒆᒇᒈᒉᒊᒋᒌᒎᒏᒐᒑᒒᒓᒔᒕᒖᒗᒘᒙᒚᒛᒜᒠᒡᒤᒦᒨᒩᒬᒭᒮᒰᒱᒲᒳᒴᒵᒶᒹᒺᒼᒽᓀᓁᓃᓄᓅᓆᓉᓊᓋᓍᓐᓑ"
    "ᓒᓓᓔᓖᓗᓘᓙᓜᓝᓠᓡᓢᓣᓤᓥᓨᓬᓭᓮᓯᓰᓱᓲᓳᓴᓵᓶᓷᓸᓺᓻᓼᓽᓾᓿᔀᔃᔄᔅᔆᔐᔒᔓᔔᔗᔘᔛᔜᔝᔞᔟᔠᔥᔦᔧᔨᔩᔪᔫᔬᔭᔮᔯᔰᔱᔲᔳᔴᔵᔶᔷᔸᔹᔺᔽᔾᕂᕄᕅᕇᕈᕉᕊᕋᕌᕍᕎᕏᕐᕓ"
    "ᕔᕕᕖᕗᕘᕛᕜᕝᕞᕠᕢᕤᕥᕦᕨᕩᕪᕴᕶᕷᕸᕺᕻᕾᕿᖀᖁᖂᖃᖄᖅᖊᖌᖎᖏᖐᖑᖒᖓᖔᖕᖖᖠᖢᖣᖦᖨᖫᖬᖮᙆᙇᙯᙰᙱᙲᙳᙴᙵᙶᚁᚂᚃᚄᚅᚆᚇᚈᚉᚊᚋᚌᚍᚎᚏᚐᚑᚒᚓᚔᚕᚖᚗᚘᚙᚚⴰⴳⴴⴵ"
    "ⴶⴻⴼⴽⴾⴿⵀⵁⵃⵄⵆⵇⵊⵋⵌⵐⵒⵓⵕⵖⵘⵚⵛⵜⵞⵟⵡⵢⵣⵤꓘꓙꓤꓩꓭ𐌀𐌁𐌂𐌃𐌄𐌅𐌆𐌇𐌊𐌋𐌌𐌍𐌐𐌑𐌒𐌓𐌔𐌕𐌖𐌘𐌙𐌚𐌛𐌜𐌝𐌞𐌣ɐɕɖɗɚɝɞɠɣɤɥɦɧɨɬɮɱɲɶɷɸɹɺɻɼɽɾʀ"
    "ʁʂʄʅʆʇʈʉʊʋʌʍʎʏʐʑʓʔʕʖʗʚʛʝʞʠʣʤʥʦʧʨʩʪʫʬʭʮʯꙌꙐꙑꙖꙗꙢꙣꙤꙥꙦꙧꙪꙫꙬꙮꚋꚌꚔꜢꜣꜤꜧꜨꜩꜫꜲꜳꜴꜵꜶꜷꜸꜹꜼꜽꝁꝆꝉꝊꝋꝐꝑꝒꝓꝖꝤꝥꝦꞀꞂꞃ"
    "ꞎꞐꞑꞠꞡꞢꞣꞤꞥꞦꞧꞨꞩꞪꟽꟿᴁᴂᴃᴆᴈᴌᴑᴒᴓᴖᴗᴘᴙᴚᴝᴞᴨᴪᵻᵽⱠⱡⱢⱣⱤⱥⱦⱨⱩⱪⱫⱬⱭⱮⱰⱱⱲⱳⱴⱷⱹⱺⱾⱿ"
)


class Glyph(NamedTuple):
    """
    A drawn symbol, two "L" images of the same size.

    Attributes:
        ink: opacity of the symbol itself.
        body: opacity of what it is drawn on: the symbol with a rim, enclosed areas filled.
    """

    ink: Image.Image
    body: Image.Image


def symbol_names(num_classes: int) -> list[tuple[str, str]]:
    """
    The first ``num_classes`` symbols, as (character, name). Names are Unicode's, in lower case with
    underscores.

    Raises:
        ValueError: there are fewer symbols.
    """
    if not 1 <= num_classes <= len(SYMBOLS):
        raise ValueError(f"{num_classes} symbols asked for; there are {len(SYMBOLS)} of them")
    return [(c, unicodedata.name(c).lower().replace(" ", "_")) for c in SYMBOLS[:num_classes]]


def render_glyph(char: str) -> Glyph:
    """Draw a symbol whose longest side, without its body's rim, has ``GLYPH_SIZE`` pixels."""
    left, top, right, bottom = _draw_char(char, _font(GLYPH_SIZE), 0, 0).getbbox() or (0, 0, 1, 1)
    font = _font(round(GLYPH_SIZE**2 / max(right - left, bottom - top)))
    ink = _draw_char(char, font, GLYPH_MARGIN, stroke_fill=0)
    body = _draw_char(char, font, GLYPH_MARGIN, stroke_fill=255)
    outside = body.point(lambda alpha: 255 * (alpha >= 128))
    # The corner is outside: there is a margin around the body.
    ImageDraw.floodfill(outside, (0, 0), 1)
    body = Image.fromarray(np.where(np.asarray(outside) == 0, np.uint8(255), np.asarray(body)))
    box = body.getbbox()
    return Glyph(ink.crop(box), body.crop(box))


def draw_image(
    glyphs: Sequence[Glyph], image_size: int, rng: np.random.Generator, plain: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """
    Draw glyphs in turn, later ones over earlier ones, at random places on a random background.

    Args:
        glyphs: what to draw.
        image_size: height and width in pixels.
        rng: decides everything else.
        plain: dark symbols on light bodies, instead of any two colours.

    Returns:
        The image, uint8 RGB (H, W, 3), and the index of the glyph that each pixel shows, int
        (H, W), -1 for the background.

    Raises:
        ValueError: the glyphs do not fit into an image of this size.
    """
    canvas = _draw_background(image_size, rng)
    owner = np.full((image_size, image_size), -1)
    areas = np.zeros(len(glyphs), dtype=int)
    visible = np.zeros(len(glyphs), dtype=int)
    for index, glyph in enumerate(glyphs):
        ink, body, x, y = _place_glyph(glyph, owner, areas, visible, rng)
        height, width = body.shape
        region = np.s_[y : y + height, x : x + width]
        mask = body >= 128
        hidden = owner[region][mask]
        visible -= np.bincount(hidden[hidden >= 0], minlength=len(glyphs))
        areas[index] = visible[index] = mask.sum()
        owner[region][mask] = index

        if plain:
            body_color, ink_color = rng.uniform(205, 255, 3), rng.uniform(0, 50, 3)
        else:
            body_color = _contrasting_color(canvas[region].mean(axis=(0, 1)), rng)
            ink_color = _contrasting_color(body_color, rng)
        color = body_color + (ink_color - body_color) * (ink[:, :, None] / 255.0)
        canvas[region] += (color - canvas[region]) * (body[:, :, None] / 255.0)

    canvas += rng.normal(0.0, rng.uniform(0.0, 6.0), canvas.shape)
    picture = Image.fromarray(canvas.clip(0, 255).astype(np.uint8))
    picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.0, 0.6)))
    return np.asarray(picture), owner


def _place_glyph(
    glyph: Glyph,
    owner: np.ndarray,
    areas: np.ndarray,
    visible: np.ndarray,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, int, int]:
    """
    A random size, rotation and position that leaves enough of every earlier glyph visible.

    Returns:
        Ink and body, uint8 (h, w), and the x and y of their upper left corner.
    """
    image_size = len(owner)
    low, high = OBJECT_SIZES
    side = image_size * low * (high / low) ** rng.random()
    angle = rng.uniform(-MAX_ROTATION, MAX_ROTATION)
    for _ in range(50):
        ink, body = _transform_glyph(glyph, side, angle)
        height, width = body.shape
        mask = body >= 128
        positions = []
        # The position that hides least: objects overlap a bit, but do not pile up.
        for _ in range(NUM_POSITIONS):
            x = int(rng.integers(image_size - width + 1))
            y = int(rng.integers(image_size - height + 1))
            hidden = owner[y : y + height, x : x + width][mask]
            hidden = np.bincount(hidden[hidden >= 0], minlength=len(areas))
            if (visible - hidden >= MIN_VISIBLE * areas).all():
                positions.append((hidden.sum(), x, y))
        if positions:
            return ink, body, *min(positions)[1:]
        side = max(0.8 * side, low * image_size)
    raise ValueError(f"{len(areas)} objects do not fit into an image of {image_size} pixels")


def _transform_glyph(glyph: Glyph, side: float, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Ink and body scaled to a longest side in pixels, rotated by degrees, cropped to the body."""
    scale = side / max(glyph.ink.size)
    size = [max(1, round(scale * length)) for length in glyph.ink.size]
    ink, body = (
        layer.resize(size, Image.Resampling.BILINEAR).rotate(
            angle, Image.Resampling.BICUBIC, expand=True
        )
        for layer in glyph
    )
    box = body.getbbox()
    return np.asarray(ink.crop(box)), np.asarray(body.crop(box))


def _draw_background(image_size: int, rng: np.random.Generator) -> np.ndarray:
    """A texture of two colours (gradient, stripes or smooth noise), float (H, W, 3), 0 to 255."""
    kind = rng.integers(3)
    if kind == 2:
        cells = rng.integers(0, 256, (rng.integers(3, 12),) * 2, dtype=np.uint8)
        smooth = Image.fromarray(cells).resize((image_size,) * 2, Image.Resampling.BICUBIC)
        blend = np.asarray(smooth) / 255.0
    else:
        angle = rng.uniform(0, 2 * np.pi)
        line = np.linspace(-0.5, 0.5, image_size)
        blend = line * np.cos(angle) + line[:, None] * np.sin(angle) + 0.5
        if kind == 1:
            blend = 0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(2, 10) * blend)
    colors = rng.uniform(0, 255, (2, 3))
    # Not too far apart, so that the objects stay easier to see than the texture.
    colors[1] = colors[0] + 0.5 * (colors[1] - colors[0])
    return colors[0] + (colors[1] - colors[0]) * blend[:, :, None]


def _contrasting_color(reference: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random RGB colour; of eight, the one farthest from the reference."""
    colors = rng.uniform(0, 255, (8, 3))
    return colors[np.linalg.norm(colors - reference, axis=1).argmax()]


def _draw_char(
    char: str, font: ImageFont.FreeTypeFont, stroke_width: int, stroke_fill: int
) -> Image.Image:
    left, top, right, bottom = font.getbbox(char, stroke_width=stroke_width)
    size = right - left + 4, bottom - top + 4
    image = Image.new("L", size)  # type: ignore[arg-type]  # whole, as the stroke's width
    ImageDraw.Draw(image).text(
        (2 - left, 2 - top),
        char,
        font=font,
        fill=255,
        stroke_width=stroke_width,
        stroke_fill=stroke_fill,
    )
    return image


def _font(size: int) -> ImageFont.FreeTypeFont:
    # Basic layout: the same with and without Pillow's optional libraqm.
    path = os.path.join(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)


# The LVIS image, and its annotations without ids.
AnnotatedImage = tuple[dict, list[dict]]


def long_tailed_image_counts(num_classes: int, max_image_count: int = MAX_IMAGE_COUNT) -> list[int]:
    """
    Image counts of a smooth long tail, from ``max_image_count`` down to 1.

    The logarithm falls linearly within each frequency group, and the groups have LVIS v1's shares:
    28% rare, 38% common and 34% frequent classes.

    Args:
        num_classes: number of classes.
        max_image_count: about the most frequent class's images; above those of a common class.

    Returns:
        An image count for each class, the largest first.

    Raises:
        ValueError: ``max_image_count`` leaves no room for frequent classes.
    """
    if max_image_count <= COMMON_MAX_IMAGES:
        raise ValueError(
            f"max_image_count must be above {COMMON_MAX_IMAGES}, got {max_image_count}"
        )
    # Half-way between the integers, so that rounding keeps each group on its side.
    counts = (1, RARE_MAX_IMAGES + 0.5, COMMON_MAX_IMAGES + 0.5, max_image_count)
    positions = (0, RARE_SHARE, RARE_SHARE + COMMON_SHARE, 1)
    ranks = (np.arange(num_classes)[::-1] + 0.5) / num_classes
    return np.rint(np.exp(np.interp(ranks, positions, np.log(counts)))).astype(int).tolist()


def generate_symbols(
    root: str | os.PathLike,
    *,
    num_classes: int = 100,
    first_symbol: int = 0,
    image_size: int = 128,
    seed: int = 0,
    image_counts: Sequence[int] | None = None,
    max_image_count: int = MAX_IMAGE_COUNT,
    plain: bool = False,
    classes_per_image: int = 6,
    val_images_per_class: int = 20,
    overwrite: bool = False,
) -> dict:
    """
    Write the dataset into the folder ``root``, or return at once where it already is.

    The folder gets ``train/`` and ``val/`` (JPEG), three LVIS v1 annotation files and
    ``symbols.json``, which states the arguments and the summary that is returned:

    - ``symbols_train.json``: class ``i`` (category id ``i + 1``) is in exactly ``image_counts[i]``
      images, and every object is annotated.
    - ``symbols_val.json``: balanced over classes, and federated: each image is verified for the
      classes it holds and for 8 others (``neg_category_ids``). In a few images one of two objects
      of a class is left out, and the class is in ``not_exhaustive_category_ids``.
    - ``symbols_val_exhaustive.json``: the same images, every object annotated, all other classes
      verified as absent.

    ``frequency``, ``image_count`` and ``instance_count`` of the categories are those of the
    training split, in all three files.

    Args:
        num_classes: number of classes; the symbols are the first of :func:`symbol_names`, in an
            order shuffled by ``seed`` so that a symbol's kind says nothing about its frequency.
        first_symbol: symbols to pass over, so that two datasets share none.
        image_size: height and width of the images in pixels, at least 64.
        seed: the same arguments give the same dataset.
        image_counts: training images of each class, ``num_classes`` integers from 1; by default
            :func:`long_tailed_image_counts`, shuffled.
        max_image_count: of the most frequent class, where ``image_counts`` is not given.
        plain: draw dark symbols on light bodies, instead of any two colours: much easier to learn.
        classes_per_image: how many different classes an image holds on average. It decides how
            many images there are; one object in ten comes twice.
        val_images_per_class: validation images of each class.
        overwrite: replace an earlier dataset of other arguments; a folder that holds anything
            else is never touched.

    Returns:
        ``{"train": {"images", "objects"}, "val": {...}, "classes": {"r", "c", "f"}}``

    Raises:
        ValueError: the font has too few symbols, or they do not fit into the images.
        FileExistsError: ``root`` holds something else, or a dataset of other arguments and
            ``overwrite`` is false.
    """
    root = Path(root).resolve()
    if image_counts is not None and len(image_counts) != num_classes:
        raise ValueError(f"{len(image_counts)} image_counts, but num_classes is {num_classes}")
    arguments = {
        "version": VERSION,
        "num_classes": num_classes,
        "first_symbol": first_symbol,
        "image_size": image_size,
        "seed": seed,
        "image_counts": None if image_counts is None else list(image_counts),
        "max_image_count": max_image_count,
        "plain": plain,
        "classes_per_image": classes_per_image,
        "val_images_per_class": val_images_per_class,
    }
    existing = _existing_dataset(root)
    if existing is not None:
        if existing["arguments"] == arguments:
            print(f"{root} already holds this dataset, nothing to do", file=sys.stderr)
            return existing["summary"]
        if not overwrite:
            raise FileExistsError(
                f"{root} holds a symbols dataset made with other arguments (its symbols.json "
                "states how it was made); choose another folder or ask to overwrite it"
            )

    symbols = symbol_names(first_symbol + num_classes)[first_symbol:]
    rng = np.random.default_rng(seed)
    symbols = [symbols[i] for i in rng.permutation(num_classes)]
    if image_counts is None:
        image_counts = rng.permutation(
            long_tailed_image_counts(num_classes, max_image_count)
        ).tolist()
    glyphs = [render_glyph(char) for char, _ in symbols]
    contents = {
        "train": _assign_classes(image_counts, classes_per_image, rng),
        "val": _assign_classes([val_images_per_class] * num_classes, classes_per_image, rng),
    }

    with atomic_folder(root, overwrite=existing is not None) as folder:
        train = _draw_split(
            folder / "train", contents["train"], glyphs, image_size, (seed, 0), plain
        )
        val = _draw_split(folder / "val", contents["val"], glyphs, image_size, (seed, 1), plain)
        categories = _lvis_categories(symbols, train)
        files = {
            "symbols_train.json": _lvis_json(train, categories, rng, left_out=0.0),
            "symbols_val.json": _lvis_json(val, categories, rng, NOT_EXHAUSTIVE_PROBABILITY),
            "symbols_val_exhaustive.json": _lvis_json(val, categories),
        }
        summary = {
            "train": {"images": len(train), "objects": sum(len(a) for _, a in train)},
            "val": {"images": len(val), "objects": sum(len(a) for _, a in val)},
            "classes": {g: sum(c["frequency"] == g for c in categories) for g in "rcf"},
        }
        files["symbols.json"] = {"arguments": arguments, "summary": summary}
        for name, content in files.items():
            (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return summary


def _existing_dataset(root: Path) -> dict | None:
    """Content of symbols.json in ``root``; None where there is nothing yet."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return None
    try:
        existing = json.loads((root / "symbols.json").read_text(encoding="utf-8"))
        if {"arguments", "summary"} <= existing.keys():
            return existing
    except (OSError, ValueError, AttributeError):
        pass
    raise FileExistsError(
        f"{root} exists and is not a symbols dataset (it has no symbols.json of one); choose "
        "another folder, or remove it yourself"
    )


def _assign_classes(
    image_counts: Sequence[int], classes_per_image: int, rng: np.random.Generator
) -> list[list[int]]:
    """The classes of each image, such that class ``i`` is in exactly ``image_counts[i]`` images."""
    num_images = max(math.ceil(sum(image_counts) / classes_per_image), max(image_counts))
    contents: list[list[int]] = [[] for _ in range(num_images)]
    loads = np.zeros(num_images)
    spread = min(3.0, classes_per_image / 2)
    for index in np.argsort(image_counts, kind="stable")[::-1]:
        # The emptiest images first, with some disorder so that they differ in how much they hold.
        order = np.argsort(loads + rng.uniform(0, spread, num_images))
        chosen = order[: image_counts[index]]
        loads[chosen] += 1
        for image in chosen:
            contents[image].append(int(index))
    return contents


def _draw_split(
    folder: Path,
    contents: list[list[int]],
    glyphs: list[Glyph],
    image_size: int,
    seed: tuple[int, int],
    plain: bool,
) -> list[AnnotatedImage]:
    """Draw and save the images, which hold the classes in ``contents``."""
    folder.mkdir()
    split = []
    for index, classes in enumerate(tqdm(contents, desc=folder.name, unit="image", disable=None)):
        # A generator per image: its picture depends on nothing but its own classes.
        rng = np.random.default_rng((*seed, index))
        repeats = [c for c in classes if rng.random() < REPEAT_PROBABILITY]
        classes = rng.permutation(classes + repeats).tolist()
        pixels, owner = draw_image([glyphs[c] for c in classes], image_size, rng, plain)
        file_name = f"{index + 1:06d}.jpg"
        Image.fromarray(pixels).save(folder / file_name, quality=JPEG_QUALITY)
        image = {"id": index + 1, "file_name": file_name, "width": image_size, "height": image_size}
        split.append((image, _object_annotations(classes, owner, image_id=index + 1)))
    return split


def _object_annotations(classes: list[int], owner: np.ndarray, image_id: int) -> list[dict]:
    """An LVIS annotation of each object, by the index of the object that each pixel shows."""
    masks = owner[:, :, None] == np.arange(len(classes))
    rles = mask_util.encode(np.asfortranarray(masks, dtype=np.uint8))
    return [
        {
            "image_id": image_id,
            "category_id": class_index + 1,
            "bbox": mask_util.toBbox(rle).tolist(),
            "area": int(mask_util.area(rle)),
            "segmentation": {"size": rle["size"], "counts": rle["counts"].decode("ascii")},
            "iscrowd": 0,
        }
        for class_index, rle in zip(classes, rles, strict=True)
    ]


def _lvis_categories(symbols: list[tuple[str, str]], train: list[AnnotatedImage]) -> list[dict]:
    """The "categories" of an LVIS file, with ids from 1 and the counts of the training split."""
    in_images = [[annotation["category_id"] for annotation in objects] for _, objects in train]
    image_counts = Counter(k for ids in in_images for k in set(ids))
    instance_counts = Counter(k for ids in in_images for k in ids)
    groups = frequency_groups([image_counts[k + 1] for k in range(len(symbols))])
    return [
        {
            "id": index + 1,
            "name": name,
            "synonyms": [name],
            "synset": f"u+{ord(char):04x}",
            "def": f"the symbol {char}",
            "frequency": groups[index],
            "image_count": image_counts[index + 1],
            "instance_count": instance_counts[index + 1],
        }
        for index, (char, name) in enumerate(symbols)
    ]


def _lvis_json(
    split: list[AnnotatedImage],
    categories: list[dict],
    rng: np.random.Generator | None = None,
    left_out: float = 0.0,
) -> dict:
    """
    Content of an LVIS file: each image verified for every class, or with ``rng`` for a few. Then an
    object whose class the image already has is left out with a probability of ``left_out``, and its
    class is not exhaustive.
    """
    images, annotations = [], []
    for image, objects in split:
        not_exhaustive: set[int] = set()
        if rng is not None:
            objects, not_exhaustive = _leave_out(objects, left_out, rng)
        present = {annotation["category_id"] for annotation in objects}
        negatives = [c["id"] for c in categories if c["id"] not in present]
        if rng is not None:
            count = min(NUM_NEGATIVES, len(negatives))
            negatives = sorted(rng.choice(negatives, count, replace=False).tolist())
        images.append(
            {
                **image,
                "neg_category_ids": negatives,
                "not_exhaustive_category_ids": sorted(not_exhaustive),
            }
        )
        annotations.extend(objects)
    return {
        "info": {"description": "symbols, a generated dataset in LVIS v1 format"},
        "licenses": [],
        "images": images,
        "annotations": [{"id": i, **a} for i, a in enumerate(annotations, start=1)],
        "categories": categories,
    }


def _leave_out(
    objects: list[dict], probability: float, rng: np.random.Generator
) -> tuple[list[dict], set[int]]:
    """Objects that stay, class by class, and the classes of which one was left out."""
    kept: dict[int, list[dict]] = {}
    not_exhaustive = set()
    for annotation in objects:
        category_id = annotation["category_id"]
        if category_id in kept and rng.random() < probability:
            not_exhaustive.add(category_id)
        else:
            kept.setdefault(category_id, []).append(annotation)
    return [annotation for group in kept.values() for annotation in group], not_exhaustive


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Generate "symbols", a long-tailed dataset in LVIS v1 format.'
    )
    parser.add_argument(
        "--root",
        type=Path,
        default=Path(__file__).parent / "symbols",
        help="folder to write (default: symbols, beside this script)",
    )
    parser.add_argument("--num-classes", type=int, help="default: 100")
    parser.add_argument(
        "--first-symbol",
        type=int,
        default=0,
        metavar="N",
        help="pass over N symbols, so that two datasets share none (default: 0)",
    )
    parser.add_argument("--image-size", type=int, default=128, help="pixels (default: 128)")
    parser.add_argument("--seed", type=int, default=0)
    counts = parser.add_mutually_exclusive_group()
    counts.add_argument(
        "--max-image-count",
        type=int,
        default=MAX_IMAGE_COUNT,
        metavar="N",
        help=f"a long tail from N training images down to 1 (default: {MAX_IMAGE_COUNT})",
    )
    counts.add_argument(
        "--balanced", type=int, metavar="N", help="N training images of every class"
    )
    counts.add_argument(
        "--lvis-v1-counts",
        action="store_true",
        help="1,203 classes with the training image counts of LVIS v1: 60,000 images",
    )
    parser.add_argument(
        "--plain", action="store_true", help="dark symbols on light bodies: much easier to learn"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a dataset made with other arguments"
    )
    args = parser.parse_args(arguments)
    if args.num_classes is not None and args.lvis_v1_counts:
        parser.error("--lvis-v1-counts fixes the number of classes; leave --num-classes out")
    return args


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse_args(arguments)
    num_classes, image_counts = args.num_classes or 100, None
    if args.balanced is not None:
        image_counts = [args.balanced] * num_classes
    if args.lvis_v1_counts:
        # Here, because Detectron2 takes seconds to import.
        from detectron2.data.datasets.lvis_v1_category_image_count import LVIS_CATEGORY_IMAGE_COUNT

        image_counts = [category["image_count"] for category in LVIS_CATEGORY_IMAGE_COUNT]
        num_classes = len(image_counts)
    try:
        summary = generate_symbols(
            args.root,
            num_classes=num_classes,
            first_symbol=args.first_symbol,
            image_size=args.image_size,
            seed=args.seed,
            image_counts=image_counts,
            max_image_count=args.max_image_count,
            plain=args.plain,
            overwrite=args.overwrite,
        )
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    classes = summary["classes"]
    print(
        f"{args.root}: {sum(classes.values())} classes "
        f"({classes['r']} rare, {classes['c']} common, {classes['f']} frequent)"
    )
    for split in ("train", "val"):
        print(f"  {split}: {summary[split]['images']} images, {summary[split]['objects']} objects")


if __name__ == "__main__":
    main()
