// union_find.cuh -- disjoint sets that many threads unite at once.
//
// Layout   every node has a link to a smaller or equal node of its set; a root has one to itself.
//          `Links` hides where they are: read(node), and lower(node, to), which is an atomicMin.
// Result   when every thread has returned from `unite`, the root of a set is its smallest node.
// Method   the larger of two roots is linked to the smaller by atomicMin, and what was linked there
//          in the meantime is united next (Komura 2015, Comput. Phys. Commun. 194; Playne & Hawick
//          2018, IEEE TPDS 29).

// Returns the root of a node, while other threads unite.
template <class Links>
__device__ __forceinline__ int find(Links links, int node)
{
    for (int next; (next = links.read(node)) != node; node = next) {
    }
    return node;
}

// Makes one set of the sets of two nodes.
template <class Links>
__device__ __forceinline__ void unite(Links links, int a, int b)
{
    for (;;) {
        a = find(links, a);
        b = find(links, b);
        if (a == b) return;
        const int low = min(a, b), high = max(a, b);
        const int linked = links.lower(high, low);
        if (linked == high) return;
        // `high` was no root any more, and the link that it had is lost unless it is made anew
        a = low;
        b = linked;
    }
}
