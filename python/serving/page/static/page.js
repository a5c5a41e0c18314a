// The page: which view is shown, and what is in it. The address after # says it, so that going back and links work.

import { ask, card, combobox, cosineBar, cover, format, itemLink, make, scaleOf, scoreBar, setGroups, userLink } from "./parts.js";
import { showMap } from "./map.js";

const by = (id) => document.getElementById(id);
const VIEWS = ["people", "items", "cold", "map"];
const VISITOR = "visitor";
let start = null, turn = 0, coldShown = 0, first = true;

function say(text) {
  by("status").textContent = text;
}

function problem(text) {
  by("problem").textContent = text;
  by("problem").hidden = !text;
}

// The new visitor: what was chosen on this page, kept until the window is closed.
const visitor = {
  get items() {
    try {
      const kept = JSON.parse(sessionStorage.getItem(VISITOR));
      return Array.isArray(kept) ? kept.map(String) : [];
    } catch {
      return [];
    }
  },
  set items(ids) {
    sessionStorage.setItem(VISITOR, JSON.stringify(ids));
  },
};

async function route() {
  const [name, value] = location.hash.slice(1).split(/=(.*)/s), own = ++turn;
  const view = { user: "people", visitor: "people", item: "items" }[name] ?? (VIEWS.includes(name) ? name : "people");
  for (const one of VIEWS) by(`view-${one}`).hidden = one !== view;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.dataset.view === view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  problem("");
  document.title = `${by(`title-${view}`).textContent} · ${start.data}`;
  const still = () => own === turn;
  try {
    if (name === "user") await showPerson({ user: decodeURIComponent(value ?? "") }, still);
    else if (name === "visitor") await showPerson({ history: visitor.items }, still);
    else if (name === "item") await showItem(decodeURIComponent(value ?? ""), still);
    else if (view === "cold" && !coldShown) await showCold();
    else if (view === "map") await showMap(start, say);
    else if (name === "people" || name === "") by("person").replaceChildren();
    else if (name === "items") by("item").replaceChildren();
  } catch (error) {
    if (still()) problem(error.message);
  }
  // A reader of the screen continues at what is new; at the start, at the top.
  if (!first && still()) (document.querySelector(`#view-${view} .result h2`) ?? by(`title-${view}`)).focus();
  first = false;
}

function list(items, names, scale) {
  return make("ol.cards", ...items.map((item, n) => card(item, scoreBar(item, names, scale), n + 1)));
}

function partsLegend() {
  if (!start.parts.length) return make("p.hint", `The score is shown as a whole: ${start.no_parts}.`);
  const entries = start.parts.map((name, n) => make("li", make(`span.dot.p${n % 6}`, { "aria-hidden": "true" }), name));
  return make("ul.keys", ...entries, { "aria-label": "Parts of a score" });
}

async function showPerson(message, still) {
  const box = by("person"), known = message.user !== undefined;
  if (!known && !message.history.length) {
    box.replaceChildren(
      make("div.result", make("h2", "A new visitor", { tabindex: "-1" }),
        make("p", "Nothing is chosen yet. Open an item and choose “Add to a new visitor”.")),
    );
    return;
  }
  const answer = await ask("person", { ...message, k: 20 });
  if (!still()) return;
  const names = start.parts, scale = scaleOf(answer.items, names);
  const who = known ? `User ${answer.user}` : "A new visitor";
  const size = `${format.format(answer.history_size)} ${answer.history_size === 1 ? "item" : "items"}`;
  const history = make(
    "ul.cards.small",
    ...answer.history.map((item) => card(item, known ? null : removal(item))),
  );
  const shortened = answer.history.length < answer.history_size ? `, the ${answer.history.length} best fitting` : "";
  const left = make(
    "section.panel.main",
    make("h3", "Recommended"),
    answer.known ? partsLegend() : make("p.hint", "Nothing is known about this user: these are the most popular items."),
    list(answer.items, names, scale),
    { "aria-label": "Recommended" },
  );
  const coldList = answer.cold.length
    ? list(answer.cold, names, scaleOf(answer.cold, names))
    : make("p.hint", `None: ${answer.no_cold || "no item is left"}.`);
  const right = make(
    "div.side",
    make("section.panel", make("h3", "History"), make("p.hint", `${size}${shortened}; what the model finds most typical is first.`), history, { "aria-label": "History" }),
    make("section.panel", make("h3", "Best among the cold items"), coldList, { "aria-label": "Best among the cold items" }),
  );
  const clear = make("button", "Start again", { type: "button" });
  clear.addEventListener("click", () => {
    visitor.items = [];
    route();
  });
  const head = make("div.head", make("h2", who, { tabindex: "-1" }), make("p", `${size} in the history`), known ? null : clear);
  box.replaceChildren(make("div.result", head, make("div.columns", left, right)));
  document.title = `${who} · ${start.data}`;
  say(`${answer.items.length} recommendations for ${known ? `user ${answer.user}` : "a new visitor"}.`);
}

function removal(item) {
  const button = make("button.plain", "Remove", { type: "button", "aria-label": `Remove ${item.title}` });
  button.addEventListener("click", () => {
    visitor.items = visitor.items.filter((id) => id !== item.id);
    route();
  });
  return button;
}

async function showItem(id, still) {
  const answer = await ask("item", { item: id, k: 12 });
  if (!still()) return;
  const { item } = answer;
  const facts = [item.note, item.count ? `chosen by ${format.format(item.count)}` : "cold: chosen by nobody", `id ${item.id}`];
  const add = make("button", "Add to a new visitor", { type: "button" });
  add.addEventListener("click", () => {
    if (!visitor.items.includes(item.id)) visitor.items = [...visitor.items, item.id];
    location.hash = "visitor";
  });
  const head = make(
    "div.head.item",
    cover(item),
    make("div", make("h2", item.title, { tabindex: "-1" }), make("p", facts.filter(Boolean).join(" · ")), start.no_histories ? null : add),
  );
  const side = (title, about, found) =>
    make(
      "section.panel",
      make("h3", title),
      make("p.hint", about),
      found.items.length
        ? make("ol.cards", ...found.items.map((one, n) => card(one, cosineBar(one.cosine), n + 1)))
        : make("p.hint", `None: ${found.reason}.`),
      { "aria-label": title },
    );
  const columns = make(
    "div.columns.even",
    side(start.parts.length ? "Similar by choices and features" : "Similar by choices", "The nearest by the embedding that scores the items.", answer.all),
    side("Similar by features alone", "The nearest by what the item is, whoever chooses it.", answer.features),
  );
  by("item").replaceChildren(make("div.result", head, columns));
  document.title = `${item.title} · ${start.data}`;
  say(`${answer.all.items.length} similar items for ${item.title}.`);
}

async function showCold() {
  const answer = await ask("cold", { start: coldShown, k: 48 });
  coldShown += answer.items.length;
  const cards = answer.items.map((item) => card(item));
  by("cold-items").append(...cards);
  const what = answer.reason && answer.total ? `The model cannot recommend them: ${answer.reason}.` : "Their features alone say to whom they are shown.";
  by("about-cold").textContent = answer.total
    ? `${format.format(answer.total)} of ${format.format(start.items)} items: nobody had chosen them when the model was trained. ${what}`
    : "There are none: every item was chosen by somebody.";
  by("more-cold").hidden = coldShown >= answer.total;
  say(`${format.format(coldShown)} of ${format.format(answer.total)} cold items are shown.`);
  return cards[0];
}

function listen() {
  combobox(by("find-users"), by("found-users"), async (text) => {
    const { found } = await ask("find", { kind: "users", text });
    return found.map((user) => ({
      label: user.id,
      detail: `${format.format(user.count)} ${user.count === 1 ? "item" : "items"}`,
      open: () => go(userLink(user.id)),
    }));
  }, say);
  combobox(by("find-items"), by("found-items"), async (text) => {
    const { found } = await ask("find", { kind: "items", text });
    return found.map((item) => ({ label: item.title, detail: item.note, open: () => go(itemLink(item)) }));
  }, say);
  by("more-cold").addEventListener("click", async () => {
    try {
      const next = await showCold();
      next?.querySelector("a").focus();
    } catch (error) {
      problem(error.message);
    }
  });
  addEventListener("hashchange", route);
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault(); // the address says which view is shown
    by("main").focus();
  });
}

function go(hash) {
  if (location.hash === hash) route();
  else location.hash = hash;
}

async function begin() {
  try {
    start = await ask("start");
  } catch (error) {
    by("about").textContent = "";
    return problem(error.message);
  }
  setGroups(start);
  const count = (n, one) => `${format.format(n)} ${one}${n === 1 ? "" : "s"}`;
  by("name").textContent = start.data;
  by("about").textContent =
    `${start.system.toUpperCase()} · ${count(start.users, "user")} · ${count(start.items, "item")} · ${count(start.interactions, "interaction")}`;
  by("foot").textContent = `Model ${start.model}. Scores order the items of one person; they cannot be compared between people.`;
  by("examples").append(
    "For example ",
    ...start.examples.flatMap((user, n) => [n ? " " : "", make("a.chip", user, { href: userLink(user), "aria-label": `User ${user}` })]),
    start.no_histories ? "" : make("a.chip.new", "A new visitor", { href: "#visitor" }),
  );
  listen();
  await route();
}

begin();
