// The map of the items: points on a canvas, with the pointer and with the keyboard.

import { ask, format, itemLink, make, tone } from "./parts.js";

const canvas = document.getElementById("canvas"), tip = document.getElementById("tip");
const legend = document.getElementById("legend");
let points = null, start = null, say = () => {};
let view = { x: 0, y: 0, zoom: 1 }, current = -1, picked = new Set(), size = { width: 0, height: 0 };
let colours = [], ink = "", drawn = 0;

export async function showMap(facts, speak) {
  start = facts;
  say = speak;
  if (points === null) {
    points = await ask("map");
    points.steps = 2000;
    explain();
    makeLegend();
    listen();
  }
  resize();
}

function explain() {
  const about = document.getElementById("about-map");
  if (!points.ids.length) {
    about.textContent = "The model has no item embeddings that could be drawn.";
    return;
  }
  const share = Math.round(100 * points.share);
  const some = points.ids.length < points.total ? `The ${format.format(points.ids.length)} most chosen of ` : "";
  about.textContent =
    `${some}${format.format(points.total)} items. Those that the model finds similar lie close to each other, as far as two ` +
    `dimensions can show it: they have ${share}% of the variance of the model's embeddings.`;
}

function makeLegend() {
  document.getElementById("legend-title").textContent = start.column ?? "Items";
  const counts = new Array(Math.max(1, start.groups.length)).fill(0);
  points.groups.forEach((group) => counts[group]++);
  const groups = start.groups.length ? start.groups : [{ name: "all items" }];
  legend.replaceChildren(
    ...groups.map((group, n) => {
      const button = make(
        "button",
        make(`span.dot.${tone(n)}`, { "aria-hidden": "true" }),
        make("span", group.name),
        make("span.detail", format.format(counts[n])),
        { type: "button", "aria-pressed": "false" },
      );
      button.addEventListener("click", () => {
        picked.has(n) ? picked.delete(n) : picked.add(n);
        button.setAttribute("aria-pressed", String(picked.has(n)));
        say(picked.size ? `Only ${[...picked].map((one) => groups[one].name).join(", ")} in colour.` : "All groups in colour.");
        draw();
      });
      return make("li", button);
    }),
  );
}

function listen() {
  const redraw = () => resize();
  new ResizeObserver(redraw).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  let dragged = null;
  canvas.addEventListener("pointerdown", (event) => {
    dragged = { x: event.clientX, y: event.clientY, far: false };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (dragged && event.buttons) {
      const dx = event.clientX - dragged.x, dy = event.clientY - dragged.y;
      if (!dragged.far && Math.hypot(dx, dy) < 4) return;
      dragged = { x: event.clientX, y: event.clientY, far: true };
      view.x += dx;
      view.y += dy;
      mark(-1);
    } else mark(nearest(event.offsetX, event.offsetY, 14));
  });
  canvas.addEventListener("pointerup", (event) => {
    const clicked = dragged && !dragged.far;
    dragged = null;
    if (!clicked) return;
    const found = nearest(event.offsetX, event.offsetY, 14);
    if (found >= 0) open(found);
  });
  canvas.addEventListener("pointerleave", () => mark(-1));
  canvas.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      zoom(event.deltaY < 0 ? 1.2 : 1 / 1.2, event.offsetX, event.offsetY);
    },
    { passive: false },
  );
  canvas.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (steps[event.key]) {
      event.preventDefault();
      walk(...steps[event.key]);
    } else if (event.key === "Enter" && current >= 0) open(current);
    else if (event.key === "+" || event.key === "=") zoom(1.4);
    else if (event.key === "-") zoom(1 / 1.4);
    else if (event.key === "0") all();
  });
  document.getElementById("zoom-in").addEventListener("click", () => zoom(1.4));
  document.getElementById("zoom-out").addEventListener("click", () => zoom(1 / 1.4));
  document.getElementById("zoom-all").addEventListener("click", all);
}

const open = (n) => (location.hash = itemLink({ id: points.ids[n] }));

function all() {
  view = { x: 0, y: 0, zoom: 1 };
  mark(-1);
}

function zoom(factor, x = size.width / 2, y = size.height / 2) {
  const after = Math.max(0.7, Math.min(40, view.zoom * factor)), real = after / view.zoom;
  view = { zoom: after, x: x - (x - view.x) * real, y: y - (y - view.y) * real };
  mark(-1);
}

function place(n) {
  const side = Math.min(size.width, size.height) - 90; // the buttons are below
  const x = (points.x[n] / points.steps - 0.5) * (size.width - 40) + size.width / 2;
  const y = (0.5 - points.y[n] / points.steps) * side + size.height / 2 - 22;
  return [x * view.zoom + view.x, y * view.zoom + view.y];
}

const visible = (n) => !picked.size || picked.has(points.groups[n]);

function nearest(x, y, within) {
  let best = -1, least = within * within;
  for (let n = 0; n < points.ids.length; n++) {
    if (!visible(n)) continue;
    const [px, py] = place(n), far = (px - x) ** 2 + (py - y) ** 2;
    if (far < least) [best, least] = [n, far];
  }
  return best;
}

// The nearest item in a direction, those straight ahead first.
function walk(dx, dy) {
  if (current < 0) return mark(nearest(size.width / 2, size.height / 2, Infinity), true);
  const [x, y] = place(current);
  let best = -1, least = Infinity;
  for (let n = 0; n < points.ids.length; n++) {
    if (n === current || !visible(n)) continue;
    const [px, py] = place(n), ahead = (px - x) * dx + (py - y) * dy;
    const aside = Math.abs((px - x) * dy) + Math.abs((py - y) * dx);
    if (ahead < 0.5 || aside > 2 * ahead) continue;
    const far = ahead + 2 * aside;
    if (far < least) [best, least] = [n, far];
  }
  if (best >= 0) {
    const [px, py] = place(best);
    if (px < 10 || px > size.width - 10) view.x += size.width / 2 - px;
    if (py < 10 || py > size.height - 10) view.y += size.height / 2 - py;
    mark(best, true);
  } else say("There is no item further in this direction.");
}

function mark(n, aloud = false) {
  current = n;
  canvas.classList.toggle("over", n >= 0);
  tip.hidden = n < 0;
  if (n >= 0) {
    const group = start.groups[points.groups[n]];
    tip.textContent = points.titles[n] + (group ? ` · ${group.name}` : "");
    const [x, y] = place(n);
    tip.style.left = `${Math.max(8, Math.min(x + 12, size.width - tip.offsetWidth - 8))}px`;
    tip.style.top = `${Math.max(8, y - 38)}px`;
    if (aloud) say(tip.textContent);
  }
  draw();
}

function resize() {
  const box = canvas.getBoundingClientRect(), style = getComputedStyle(document.documentElement);
  if (!box.width) return;
  size = { width: box.width, height: box.height };
  canvas.width = Math.round(box.width * devicePixelRatio);
  canvas.height = Math.round(box.height * devicePixelRatio);
  colours = Array.from({ length: Math.max(1, start.groups.length) }, (_, n) => style.getPropertyValue(`--${tone(n)}`).trim());
  ink = style.getPropertyValue("--ink").trim();
  draw();
}

function draw() {
  cancelAnimationFrame(drawn);
  drawn = requestAnimationFrame(() => {
    const pen = canvas.getContext("2d");
    pen.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
    pen.clearRect(0, 0, size.width, size.height);
    const radius = Math.min(6, (size.width < 500 ? 2 : 2.6) * Math.sqrt(view.zoom));
    // Pale points first, so that they do not hide the others.
    for (const pale of [true, false]) {
      for (let n = points.ids.length - 1; n >= 0; n--) {
        if (visible(n) === pale) continue;
        const [x, y] = place(n);
        if (x < -9 || y < -9 || x > size.width + 9 || y > size.height + 9) continue;
        pen.globalAlpha = pale ? 0.12 : 0.78;
        pen.fillStyle = pale ? ink : colours[points.groups[n]];
        pen.beginPath();
        pen.arc(x, y, pale ? radius * 0.8 : radius, 0, 7);
        pen.fill();
      }
    }
    pen.globalAlpha = 1;
    if (current >= 0) {
      const [x, y] = place(current);
      pen.lineWidth = 2;
      pen.strokeStyle = ink;
      pen.fillStyle = colours[points.groups[current]];
      pen.beginPath();
      pen.arc(x, y, radius + 3, 0, 7);
      pen.fill();
      pen.stroke();
    }
    canvas.dataset.drawn = String(points.ids.length);
  });
}
