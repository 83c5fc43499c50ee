// Lets the search run from the file system, where browsers start no worker: the worker's script runs in a hidden frame instead.
// The theme knows this class by its name.
class IFrameWorker extends EventTarget {
  constructor(url) {
    super();
    const frame = document.createElement("iframe");
    frame.hidden = true;
    document.body.append(frame);
    this.scope = frame.contentWindow;
    this.scope.postMessage = (data) => this.receive(data);
    this.scope.importScripts = (...urls) => urls.reduce((loaded, next) => loaded.then(() => this.load(next)), Promise.resolve());
    this.ready = this.load(new URL(url, location.href).href);
  }

  load(url) {
    const script = this.scope.document.createElement("script");
    script.src = url;
    return new Promise((resolve, reject) => {
      script.onload = resolve;
      script.onerror = () => reject(new Error(`${url} cannot be loaded`));
      this.scope.document.body.append(script);
    });
  }

  receive(data) {
    const message = new MessageEvent("message", { data });
    this.dispatchEvent(message);
    this.onmessage?.(message);
  }

  postMessage(data) {
    this.ready.then(() => this.scope.dispatchEvent(new this.scope.MessageEvent("message", { data })));
  }

  terminate() {
    this.scope.frameElement.remove();
  }
}
if (location.protocol === "file:") {
  window.IFrameWorker = IFrameWorker;
  window.Worker = IFrameWorker;
}
