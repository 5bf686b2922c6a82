// The seconds that somebody worked: none while nothing happens for a minute, none while the tab is hidden.

const IDLE = 60_000; // milliseconds

export class Clock {
  constructor() {
    this.seconds = 0;
    this.isStopped = false;
    this.at = this.touchedAt = performance.now();
    for (const kind of ["pointermove", "pointerdown", "keydown", "wheel"]) {
      addEventListener(kind, () => this.touch(), { capture: true, passive: true });
    }
    document.addEventListener("visibilitychange", () => this.tick());
    setInterval(() => this.tick(), 1000);
  }

  /** Whether time counts now. */
  get isRunning() {
    return !this.isStopped && !document.hidden && performance.now() - this.touchedAt < IDLE;
  }

  touch() {
    this.tick();
    this.touchedAt = performance.now();
  }

  /** The seconds since they were last taken, which start again from 0. */
  take() {
    this.tick();
    const { seconds } = this;
    this.seconds = 0;
    return seconds;
  }

  tick() {
    const now = performance.now();
    const until = Math.min(now, this.touchedAt + IDLE);
    if (!this.isStopped && !this.wasHidden) this.seconds += Math.max(0, until - this.at) / 1000;
    this.at = now;
    this.wasHidden = document.hidden;
  }
}
