// Pieces of the page: elements, items, bars of scores, and search boxes. Text is only ever set as text, never as HTML.

export const format = new Intl.NumberFormat("en");

// make("p.note", "text", child, {title: "…"}): an element with a class, attributes and children.
export function make(kind, ...content) {
  const [tag, ...classes] = kind.split(".");
  const element = document.createElement(tag);
  if (classes.length) element.className = classes.join(" ");
  for (const part of content) {
    if (part === null || part === undefined) continue;
    if (part instanceof Node || typeof part === "string") element.append(part);
    else for (const [name, value] of Object.entries(part)) element.setAttribute(name, value);
  }
  return element;
}

export async function ask(path, message) {
  const options = message === undefined ? {} : { method: "POST", body: JSON.stringify(message) };
  let response;
  try {
    response = await fetch(`page/${path}`, options);
  } catch {
    throw new Error("The service does not answer. Is it still running?");
  }
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(answer.error || `The service answered with status ${response.status}.`);
  return answer;
}

export const itemLink = (item) => `#item=${encodeURIComponent(item.id)}`;
export const userLink = (user) => `#user=${encodeURIComponent(user)}`;

// The class of the colour of a group: tones of one colour for ranges of numbers, grey for the remaining items.
let groups = [], ordered = false;
export function setGroups(facts) {
  ({ groups, ordered } = facts);
}
export function tone(group) {
  if (groups[group]?.rest) return "g8";
  return ordered ? `s${group % 6}` : `g${(group ?? 0) % 8}`;
}

// The picture of an item, or a cover in the colour of its group. Decorative: the title is beside it.
export function cover(item) {
  const box = make(`div.cover.${tone(item.group)}`, { "aria-hidden": "true" });
  const initials = item.title.replace(/^(the|a|an) /i, "").match(/[\p{L}\p{N}]/u);
  box.append(make("span", initials ? initials[0].toUpperCase() : "·"));
  if (item.picture) {
    const picture = make("img", { src: `page/picture?item=${encodeURIComponent(item.id)}`, alt: "", loading: "lazy" });
    picture.addEventListener("error", () => picture.remove());
    box.append(picture);
  }
  return box;
}

// A card of an item. extra: what is below its title. place: its rank.
export function card(item, extra = null, place = null) {
  const name = make("a.title", item.title, { href: itemLink(item) });
  const lines = make("div.lines", name, item.note ? make("p.note", item.note) : null, extra);
  return make("li.card", place === null ? null : make("span.place", String(place), { "aria-hidden": "true" }), cover(item), lines);
}

// As many digits as tell the largest score of a list from its neighbours.
const rounded = (value, most = 1) => {
  const digits = Math.max(0, Math.min(6, 3 - Math.floor(Math.log10(most || 1))));
  return (Math.abs(value) < 0.5 * 10 ** -digits ? 0 : value).toFixed(digits).replace("-", "−");
};

// A score as a bar of its parts: those above zero to the right of the axis, those below to the left.
export function scoreBar(item, names, scale) {
  const parts = names.length ? item.parts : [item.score];
  const track = make("div.track", { "aria-hidden": "true" });
  const below = parts.reduce((sum, part) => sum - Math.min(0, part), 0);
  const width = scale.above + scale.below || 1;
  let right = scale.below, left = scale.below - below;
  parts.forEach((part, n) => {
    const bar = make(`span.bar.p${n % 6}`);
    bar.style.width = `${(100 * Math.abs(part)) / width}%`;
    bar.style.left = `${(100 * (part < 0 ? left : right)) / width}%`;
    if (part < 0) left -= part;
    else right += part;
    track.append(bar);
  });
  if (scale.below > 0) {
    const axis = make("span.axis");
    axis.style.left = `${(100 * scale.below) / width}%`;
    track.append(axis);
  }
  const text = make("p.score", make("strong", rounded(item.score, width)));
  names.forEach((name, n) => text.append(make("span", `${name} ${rounded(item.parts[n], width)}`)));
  return make("div", track, text);
}

export function scaleOf(items, names) {
  const parts = items.map((item) => (names.length ? item.parts : [item.score]));
  const most = (sign) => Math.max(0, ...parts.map((own) => own.reduce((sum, part) => sum + Math.max(0, sign * part), 0)));
  return { above: most(1), below: most(-1) };
}

// A bar of a cosine, from 0 to 1.
export function cosineBar(cosine) {
  const bar = make("span.bar.p0");
  bar.style.width = `${100 * Math.max(0, Math.min(1, cosine))}%`;
  bar.style.left = "0";
  const text = make("p.score", make("strong", rounded(cosine)), make("span", "cosine"));
  return make("div", make("div.track", bar, { "aria-hidden": "true" }), text);
}

// A text field with suggestions, as the combobox of the ARIA patterns. find(text) → [{label, detail, open}].
export function combobox(input, list, find, say) {
  let options = [], active = -1, turn = 0;

  const close = () => {
    turn++;
    list.hidden = true;
    input.setAttribute("aria-expanded", "false");
    input.removeAttribute("aria-activedescendant");
    active = -1;
  };
  const mark = (place) => {
    active = place;
    [...list.children].forEach((one, n) => one.setAttribute("aria-selected", String(n === active)));
    if (active >= 0) {
      input.setAttribute("aria-activedescendant", list.children[active].id);
      list.children[active].scrollIntoView({ block: "nearest" });
    } else input.removeAttribute("aria-activedescendant");
  };
  const choose = (place) => {
    const chosen = options[place];
    close();
    if (chosen) {
      input.value = chosen.label;
      chosen.open();
    }
  };
  const update = async () => {
    const own = ++turn;
    let found;
    try {
      found = await find(input.value);
    } catch (error) {
      return say(error.message);
    }
    if (own !== turn) return;
    options = found;
    list.replaceChildren(
      ...options.map((one, n) => {
        const option = make("li", make("span", one.label), make("span.detail", one.detail), {
          role: "option", id: `${list.id}-${n}`, "aria-selected": "false",
        });
        option.addEventListener("pointerdown", (event) => event.preventDefault());
        option.addEventListener("click", () => choose(n));
        return option;
      }),
    );
    if (!options.length) say("Nothing is found.");
    else say(`${options.length} found. The arrow keys choose.`);
    list.hidden = !options.length;
    input.setAttribute("aria-expanded", String(options.length > 0));
    mark(-1);
  };
  let waiting = 0;
  input.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(update, 120);
  });
  input.addEventListener("focus", () => input.select());
  input.addEventListener("click", () => list.hidden && update());
  input.addEventListener("blur", close);
  input.addEventListener("keydown", async (event) => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (list.hidden) await update();
      if (!options.length) return;
      const step = event.key === "ArrowDown" ? 1 : -1;
      mark(active < 0 && step < 0 ? options.length - 1 : (active + step + options.length) % options.length);
    } else if (event.key === "Enter") {
      event.preventDefault();
      clearTimeout(waiting);
      if (active < 0 || list.hidden) await update();
      if (options.length) choose(Math.max(0, active));
    } else if (event.key === "Escape") close();
  });
}
