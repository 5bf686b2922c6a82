// What keys do, outside of fields to type in.

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** `keys`: what each key does; `digit(n, isShifted)`; `arrow([dx, dy], isShifted)`; `space(isDown)`; `undo`, `redo`. */
export function listenToKeys({ keys, digit, arrow, space, undo, redo }) {
  addEventListener("keydown", (event) => {
    const { target, key } = event;
    if (target.matches("input[type=search], dialog input") || document.querySelector("dialog[open]")) return;
    const act = actionOf(event);
    if (!act) return;
    event.preventDefault();
    act();
  });
  addEventListener("keyup", ({ key }) => key === " " && space(false));
  addEventListener("blur", () => space(false));

  function actionOf({ target, key, code, ctrlKey, metaKey, altKey, shiftKey }) {
    const letter = key.toLowerCase();
    if (ctrlKey || metaKey) return { z: shiftKey ? redo : undo, y: redo }[letter];
    if (altKey) return null;
    if (target.matches("button, input") && [" ", "Enter"].includes(key)) return null; // presses it
    if (target.matches("input") && ARROWS[key]) return null; // moves it
    if (key === " ") return () => space(true);
    if (ARROWS[key]) return () => arrow(ARROWS[key], shiftKey);
    const number = Number(/^(?:Digit|Numpad)([1-9])$/.exec(code)?.[1]); // Shift makes another key of a digit
    if (number && (shiftKey || key === String(number))) return () => digit(number, shiftKey);
    return keys[key] ?? keys[letter];
  }
}
