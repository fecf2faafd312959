import jax, numpy as np, time
from small import *
from mufin_jax.data.loader import Loader
from mufin_jax.sharding import make_mesh, by_row
def test_smoke(tmp_path):
    t=time.time()
    ds = Dataset.open(prepared_folder(tmp_path))
    print("prep", time.time()-t, ds.manifest.keys(), len(ds.texts), len(ds.images), len(ds.train), len(ds.test), len(ds.labels), ds.tokenizer.vocab_size); t=time.time()
    for mesh in (make_mesh(), make_mesh(jax.devices()[:1])):
        model = new_model(ds, mesh)
        print("model", time.time()-t); t=time.time()
        l = Loader(ds, "both", mesh.size)
        pool, (bags,) = l.batch([(ds.train, np.arange(8))])
        v = jax.jit(lambda m,p: m.describe(p))(model, put(pool, by_row(mesh)))
        print("describe", time.time()-t); t=time.time()
        e = jax.jit(lambda m,v,b: m.embed(v,b))(model, v, put(bags, by_row(mesh)))
        print("embed", time.time()-t); t=time.time()
    assert 0
