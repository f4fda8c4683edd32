"use strict";
// Shows what /page/node says, and asks again every two seconds while the page is visible.
// Whatever comes from the daemon is set as text, never as HTML: pods choose their names.
const EVERY_MS = 2000;
const STATES = {
  assigned: ["A", "a pod has it"],
  free: ["·", "free: the next pods get it"],
  cooling: ["C", "cooling down: a pod had it a short while ago"],
  untracked: ["U", "untracked: a pod that is in no state file has it"],
  withheld: ["W", "withheld: not confirmed, or being released"],
};
let chosen = null;
let timer = null;
let latest = null;

const byId = (id) => document.getElementById(id);
function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") made.className = value;
    else made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}
const show = (id, ...children) => byId(id).replaceChildren(...children);
const nothing = (text) => make("p", { class: "quiet" }, text);
// Times to the second are what people compare.
const short = (text) => text.replace(/(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(?:\.\d+)?Z/g, "$1 $2Z");
const clock = (time) => make("time", { datetime: time }, short(time));
const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

function addresses(block) {
  const used = new Map(block.in_use.map((it) => [it.address, it]));
  const left = block.withheld ? "withheld" : "free";
  const [base, length] = block.net.split("/");
  if (base.includes(":")) return { all: block.in_use, more: block.capacity - block.in_use.length, left };
  const number = base.split(".").reduce((sum, part) => sum * 256 + Number(part), 0);
  const all = [];
  for (let offset = 0; offset < 2 ** (32 - Number(length)); offset += 1) {
    const value = number + offset;
    const address = [24, 16, 8, 0].map((shift) => Math.floor(value / 2 ** shift) % 256).join(".");
    all.push(used.get(address) ?? { address, state: left });
  }
  return { all, more: 0, left };
}

function cell(it, eni, block) {
  const [letter, meaning] = STATES[it.state];
  // As much of it as tells addresses of a subnet apart, or of the prefix that is named above them.
  const parts = it.address.split(/[.:]/);
  const end = block.capacity > 1 ? parts.at(-1) : parts.slice(-2).join(".");
  const pod = it.pod ? `, pod ${it.pod}` : "";
  const made = make("button", {
    type: "button", class: `cell ${it.state}`, title: `${it.address}: ${meaning}${pod}`,
    "aria-label": `${it.address}, ${it.state}${pod}`, "aria-pressed": String(chosen === it.address),
    "data-address": it.address,
  }, `${letter} ${end}`);
  made.addEventListener("click", () => { chosen = chosen === it.address ? null : it.address; draw(); });
  if (chosen === it.address) detail(it, eni, block, meaning);
  return made;
}

function detail(it, eni, block, meaning) {
  const rows = [["state", meaning], ["pod", it.pod], ["container", it.container], ["since", it.since],
    ["until", it.until], ["withheld", block.withheld], ["of", block.net], ["ENI", eni.id], ["subnet", eni.subnet]];
  const list = make("dl");
  for (const [name, value] of rows) if (value) list.append(make("dt", {}, name), make("dd", {}, short(value)));
  const close = make("button", { type: "button", "aria-label": "Close" }, "×");
  close.addEventListener("click", () => { chosen = null; draw(); });
  show("detail", close, make("strong", {}, it.address), list);
  byId("detail").hidden = false;
}

function eniCard(eni) {
  const cells = make("div", { class: "cells" });
  const counts = {};
  for (const block of eni.blocks) {
    const { all, more, left } = addresses(block);
    const prefix = block.capacity > 1;
    const group = make("div", { class: prefix ? "block prefix" : "block" });
    if (prefix) group.append(make("span", { class: "net" }, block.net));
    for (const it of all) { group.append(cell(it, eni, block)); counts[it.state] = (counts[it.state] ?? 0) + 1; }
    if (more) { group.append(make("span", { class: "net" }, `and ${more} ${left}`)); counts[left] = (counts[left] ?? 0) + more; }
    cells.append(group);
  }
  if (!eni.blocks.length) cells.append(nothing("no addresses for pods"));
  const facts = [`card ${eni.card}, device ${eni.device}`, eni.primary ? "primary" : null, eni.stage,
    eni.managed ? null : "not managed", eni.excluded ? "subnet out of use" : null, eni.subnet, `table ${eni.table}`];
  const sums = Object.keys(STATES).filter((state) => counts[state]).map((state) => `${counts[state]} ${state}`);
  return make("article", { class: "card", "aria-label": `ENI ${eni.id}` }, make("h3", {}, eni.id),
    make("p", { class: "quiet" }, facts.filter(Boolean).join(" · ")), make("p", {}, sums.join(", ")), cells);
}

function list(items, render, empty) {
  if (!items.length) return nothing(empty);
  return make("ul", { class: "list" }, ...items.map((item) => make("li", {}, ...render(item))));
}

function draw() {
  const node = latest;
  if (!node) return;
  const focused = document.activeElement?.dataset?.address;
  document.title = `${node.ready ? "ready" : "not ready"} · ${node.instance}`;
  show("node", `${node.instance} (${node.instance_type}, ${node.zone})`);
  byId("ready").className = `badge ${node.ready ? "yes" : "no"}`;
  const badge = node.ready ? "✓ ready" : "✕ not ready";
  if (byId("ready").textContent !== badge) show("ready", badge);
  show("reason", node.reason === "ready" ? "The next pod gets an address at once." : short(node.reason));
  byId("problems").hidden = !node.problems.length;
  show("problems", ...node.problems.map((problem) => make("li", {}, short(problem))));
  byId("detail").hidden = true;
  show("enis", ...node.enis.map(eniCard));
  const waiting = node.waiting ? `, ${plural(node.waiting, "pod")} waiting` : "";
  show("totals", `${node.enis.length} of ${plural(node.enis_max, "ENI")}, ${plural(node.addresses_max, "address").replace("addresss", "addresses")} at most${waiting}`);
  show("wanted",
    list(node.wanted, (it) => [`${it.card}: ${it.stock}`, make("span", { class: "why" }, `${it.target}: ${it.demand}`)], "nothing"),
    ...[["doing", "Being done"], ["next", "Next"]].filter(([key]) => node[key].length).map(([key, title]) =>
      make("div", {}, make("p", { class: "quiet" }, title),
        list(node[key], (it) => [it.what, make("span", { class: "why" }, `because ${it.because}`)], ""))));
  show("blocked", list(node.blocked, (it) =>
    [it.what, make("span", { class: "why" }, short(it.waiting_on))], "Nothing is blocked."));
  show("decisions", list(node.decisions ?? [], (it) =>
    [clock(it.at), " ", it.what, it.failed ? make("span", { class: "failed" }, ` failed: ${it.failed}`) : null,
      it.because ? make("span", { class: "why" }, `because ${it.because}`) : null], "Nothing has been decided since the daemon started."));
  const rows = Object.entries(node.settings).map(([name, value]) =>
    make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, String(value) || "none")));
  show("settings", make("table", { "aria-label": "Settings in force" }, make("tbody", {}, ...rows)));
  show("at", `vpc-ipamd ${node.version} at `, clock(node.at));
  if (focused) document.querySelector(`#enis [data-address="${CSS.escape(focused)}"]`)?.focus();
}

async function refresh() {
  clearTimeout(timer);
  if (document.hidden) return;
  try {
    const answer = await fetch("/page/node");
    const told = await answer.json();
    if (!answer.ok) throw new Error(told.error);
    latest = told;
    document.body.classList.remove("stale");
    draw();
  } catch (error) {
    document.body.classList.add("stale");
    byId("ready").className = "badge no";
    show("ready", "✕ no answer");
    show("reason", `${error.message ?? error}; asking again.`);
  }
  timer = setTimeout(refresh, EVERY_MS);
}

show("legend", ...Object.entries(STATES).map(([state, [letter, meaning]]) =>
  make("li", {}, make("span", { class: `cell ${state}`, "aria-hidden": "true" }, letter), meaning)));
document.addEventListener("visibilitychange", refresh);
refresh();
