// FlashAttention's forward pass, causal: your file for exercise 7.5 of chapter 07.
//
// q, k, v and out are (heads, N, D), row-major: channel d of token t of head h is [(h * N + t) * D + d].
// lse is (heads, N). A block has QUERIES threads, a query each; block (x, y) has the queries from
// x * QUERIES on, of head y. The query and its output stay in the thread's registers. The block walks
// over its keys, KEYS at a time, and brings them and their values into shared memory, where every
// thread reads them all: each number that is brought serves QUERIES queries.
//
// N need not be a multiple of anything: some threads have no query. They help to bring keys and meet
// the others at the barriers.
constexpr int D = 16;        // head size
constexpr int QUERIES = 64;  // of a block, and its threads
constexpr int KEYS = 32;     // brought at a time

__global__ void __launch_bounds__(QUERIES)
    flash(float* out, float* lse, const float* q, const float* k, const float* v, float scale, int N) {
    __shared__ float keys[KEYS][D];
    __shared__ float values[KEYS][D];
    long long head = (long long)blockIdx.y * N * D;  // where its first element is
    int first = blockIdx.x * QUERIES, i = first + threadIdx.x;
    float query[D], o[D];
    for (int d = 0; d < D; d++) {
        query[d] = i < N ? scale * q[head + (long long)i * D + d] : 0;
        o[d] = 0;
    }
    float m = -__int_as_float(0x7f800000), l = 0;  // the bits of infinity
    int seen = min(N, first + QUERIES);  // keys that some query of the block sees

    for (int j0 = 0; j0 < seen; j0 += KEYS) {
        int count = min(KEYS, seen - j0);
        __syncthreads();  // the keys before these have been read
        for (int n = threadIdx.x; n < count * D; n += QUERIES) {
            keys[n / D][n % D] = k[head + (long long)j0 * D + n];
            values[n / D][n % D] = v[head + (long long)j0 * D + n];
        }
        // hole 5: when all have come: for each key that query i sees, its score, and m, l and o
        __syncthreads();
        for (int j = 0; j < count && j0 + j <= i; j++) {
            float s = 0;
            for (int d = 0; d < D; d++) s += query[d] * keys[j][d];
            float largest = max(m, s), shrink = exp(m - largest), p = exp(s - largest);
            l = shrink * l + p;
            for (int d = 0; d < D; d++) o[d] = shrink * o[d] + p * values[j][d];
            m = largest;
        }
        // end of hole
    }
    if (i >= N) return;
    for (int d = 0; d < D; d++) out[head + (long long)i * D + d] = o[d] / l;
    lse[(long long)blockIdx.y * N + i] = m + log(l);
}
