// Enough of Metal's language for g++ to compile relu_attention.metal and run one threadgroup at a time.
// Checks arithmetic, indices, masks and barriers; not address-space rules, memory limits, or speed.
#pragma once
#include <algorithm>
#include <barrier>
#include <cstdint>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#define kernel extern "C"
#define device
#define constant const
#define threadgroup static

typedef unsigned int uint;
struct uint3 { uint x, y, z; };
struct float4 {
    float lane[4];
    float& operator[](uint i) { return lane[i]; }
    float operator[](uint i) const { return lane[i]; }
};
inline float dot(float4 a, float4 b) { return a[0] * b[0] + a[1] * b[1] + a[2] * b[2] + a[3] * b[3]; }

struct bfloat {
    uint16_t bits;
    bfloat() = default;
    explicit bfloat(float x) {
        uint32_t word;
        std::memcpy(&word, &x, 4);
        bits = (word + 0x7fff + ((word >> 16) & 1)) >> 16;
    }
    explicit operator float() const {
        uint32_t word = uint32_t(bits) << 16;
        float x;
        std::memcpy(&x, &word, 4);
        return x;
    }
};

namespace metal {
using std::max;
using std::min;
enum class mem_flags { mem_threadgroup };
}
using metal::mem_flags;

inline std::unique_ptr<std::barrier<>> threads_of_group;
inline void threadgroup_barrier(mem_flags) { threads_of_group->arrive_and_wait(); }

// Runs `body(group, thread)` for every threadgroup of the grid, its threads at once.
template <class Body>
void launch(uint groups_x, uint groups_y, uint n_threads, Body body)
{
    threads_of_group = std::make_unique<std::barrier<>>(n_threads);
    std::vector<std::thread> threads;
    for (uint t = 0; t < n_threads; t++)
        threads.emplace_back([=] {
            for (uint y = 0; y < groups_y; y++)
                for (uint x = 0; x < groups_x; x++) {
                    body(uint3{x, y, 0}, t);
                    threads_of_group->arrive_and_wait();
                }
        });
    for (auto& thread : threads) thread.join();
}

// Metal's fourth address space: a name in the source that is this keyword leaves nothing to compile.
#define thread
