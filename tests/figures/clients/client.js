const grpc = require('@grpc/grpc-js'), fs = require('fs');
const [addr, rate, secs, channels, file] = [process.argv[2], +process.argv[3], +process.argv[4], +process.argv[5], process.argv[6]];
const body = fs.readFileSync(file), id = b => b;
const clients = []; for (let i = 0; i < channels; i++) clients.push(new grpc.Client(addr, grpc.credentials.createInsecure(), {'grpc.use_local_subchannel_pool': 1}));
const md = new grpc.Metadata(); md.set('x-model-server', 'models');
let errs = {}, lost = 0, done = 0, sent = 0; const n = rate * secs, begun = Date.now();
function tick() {
  const due = Math.min(n, Math.floor((Date.now() - begun) * rate / 1000));
  while (sent < due) clients[sent++ % channels].makeUnaryRequest('/tensorflow.serving.PredictionService/Predict', id, id, body, md, {deadline: Date.now() + 10000}, e => {
    if (e) { lost++; const k = `${e.code} ${e.details}`.slice(0, 120); errs[k] = (errs[k] || 0) + 1 }
    if (++done === n) { console.log(`grpc-js calls ${n} lost ${lost} ${JSON.stringify(errs)}`); process.exit(0) } });
  if (sent < n) setTimeout(tick, 1);
}
tick();
