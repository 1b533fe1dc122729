// Package layer reads the layers of container images and merges them into one tree.
//
// A layer is a tar archive, compressed or not, of what changed since the layer below it: files, and whiteouts for what was
// deleted (the OCI image specification, layer.md). It comes from anywhere and may hold anything: what is read is bounded by
// a [Budget], and nothing in an archive names a file of the host. Only the contents of files go to the host's disk, one
// after the other into a spool file without a name; everything else stays in memory.
package layer
