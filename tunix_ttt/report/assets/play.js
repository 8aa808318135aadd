"use strict";
// Plays a game by its text against a table of a greedy model's answers. The
// moves are the only state; everything on the page is drawn from them.
(() => {
  const tables = JSON.parse(document.getElementById("policy").textContent);
  const models = [...document.querySelectorAll("#models button")];
  const [text, choices, state, log, undo, fresh] =
    ["text", "moves", "state", "log", "undo", "new"]
      .map((id) => document.getElementById(id));
  const seats = [...document.getElementById("seats").children];
  let table = tables.after;
  let seat = 0;
  let moves = []; // Actions of the person.

  // Plays the person's moves against the model's answers to them.
  function replay() {
    const left = [...moves];
    const events = [];
    let node = table.nodes[seat];
    while (node.ending === undefined || node.response !== undefined) {
      if (events.length === table.plies) return {node, events, ended: "The game is cut."};
      if (node.response !== undefined) {
        events.push({by: "The model", response: table.texts[node.response], move: node.move, node});
        if (node.next === undefined) break;
        node = table.nodes[node.next];
      } else if (left.length) {
        const move = left.shift();
        events.push({by: "You", move, node});
        node = table.nodes[node.moves[move]];
      } else break;
    }
    return {node, events, ended: node.ending};
  }

  function entry({by, response, move, node: {best, next, moves}}) {
    const item = document.createElement("li");
    const head = document.createElement("div");
    head.textContent = move < 0 ? by : `${by}: ${table.labels[move]}`;
    const legal = moves !== undefined || next !== undefined;
    if (best !== undefined || !legal) {
      const good = legal && best.includes(move);
      const verdict = document.createElement("span");
      verdict.className = `small ${good ? "good" : "bad"}`;
      verdict.textContent = good ? " optimal" : legal ? " not optimal" : " no legal move";
      if (!good && best !== undefined) {
        verdict.textContent += `; ${best.map((a) => table.labels[a]).join(" or ")} would have been`;
      }
      head.append(verdict);
    }
    item.append(head);
    if (response !== undefined) {
      const words = document.createElement("pre");
      words.textContent = response;
      item.append(words);
    }
    return item;
  }

  function button(action) {
    const choice = document.createElement("button");
    choice.type = "button";
    choice.textContent = table.labels[action];
    choice.addEventListener("click", () => {
      moves.push(action);
      draw();
    });
    return choice;
  }

  function draw() {
    const {node, events, ended} = replay();
    const last = document.activeElement;
    const wasHere = choices.contains(last);
    const legal = ended === undefined ? Object.keys(node.moves).map(Number) : [];
    const buttons = legal.map(button);
    choices.replaceChildren(...buttons);
    text.textContent = table.texts[node.text];
    state.textContent = ended || `Your move: you are ${table.seats[seat]}.`;
    log.replaceChildren(...events.map(entry).reverse());
    undo.setAttribute("aria-disabled", moves.length === 0);
    seats.forEach((choice, n) => choice.setAttribute("aria-pressed", n === seat));
    models.forEach((model) =>
      model.setAttribute("aria-pressed", tables[model.value] === table));
    // The focus stays on the same move, or near it.
    if (wasHere) {
      const same = buttons.find((choice) => choice.textContent === last.textContent);
      (same || buttons[0] || fresh).focus();
    }
  }

  seats.forEach((choice, n) => choice.addEventListener("click", () => {
    seat = n;
    moves = [];
    draw();
  }));
  models.forEach((model) => model.addEventListener("click", () => {
    table = tables[model.value];
    moves = [];
    draw();
  }));
  fresh.addEventListener("click", () => {
    moves = [];
    draw();
  });
  undo.addEventListener("click", () => {
    moves.pop();
    draw();
  });
  draw();
})();
