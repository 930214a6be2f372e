// Cells of the plane, into which agents are sorted, so that those who stand together lie together in memory.
//
// They are numbered row by row, every other row backwards, so that agents in the order of their cells form a band
// without jumps, and all who are near to one of them lie in a few stretches of that order, one of each row.
#pragma once

#include "math.cuh"
#include "portable.cuh"
#include "range.cuh"

// Which cells there are.
struct CellShape {
  int columns, rows;
  float low_x, low_y;  // corner of the first cell
  float per_width, per_height;
};

struct CellGrid : CellShape {
  int* start;  // [rows * columns + 1] where each cell's agents start

  // These do not decrease as the position increases.
  METHOD int column_of(float at_x) const { return index(at_x, low_x, per_width, columns); }
  METHOD int row_of(float at_y) const { return index(at_y, low_y, per_height, rows); }
  METHOD int cell_of(float at_x, float at_y) const { return cell(row_of(at_y), column_of(at_x)); }

  // Where the agents of some cells of a row start and end.
  METHOD Range stretch(int row, int first_column, int last_column) const {
    const int lowest = row * columns + (row % 2 == 0 ? first_column : columns - 1 - last_column);
    const int first = start[lowest];
    return {first, start[lowest + last_column - first_column + 1] - first};
  }

  // The same for the cells of a row that are within reach of a position.
  METHOD Range stretch(int row, float at_x, float reach) const {
    return stretch(row, column_of(at_x - reach), column_of(at_x + reach));
  }

  METHOD float height() const { return 1.0f / per_height; }

  // Agents of a cell are no farther apart along its row, whatever was rounded.
  METHOD float most_width() const {
    return Math::max((1.001f + 1e-6f * static_cast<float>(columns)) / per_width, 1e-30f);
  }

  // No agent of a row is nearer to this height, in rows.
  METHOD float rows_between(int row, float at_y) const {
    const float number = static_cast<float>(rows), from = static_cast<float>(row);
    const float at = portable::at_most(portable::at_least((at_y - low_y) * per_height, 0.0f), number);
    return Math::max(Math::max(from - at, at - (from + 1.0f)) - (1e-3f + 1e-6f * number), 0.0f);
  }

  // Cells for `count` agents between two corners, with about `per_cell` in each, so many times as high as wide.
  METHOD void lay_out(int count, float per_cell, float height_per_width, float from_x, float to_x, float from_y,
                      float to_y) {
    const float width = to_x - from_x, height = to_y - from_y;
    const float wanted = Math::max(static_cast<float>(count) / per_cell, 1.0f);
    const float cell_width = Math::sqrt(width * height / (wanted * height_per_width));
    rows = static_cast<int>(Math::clip(height / (cell_width * height_per_width), 1.0f, wanted));
    columns = static_cast<int>(Math::clip(width / cell_width, 1.0f, wanted / static_cast<float>(rows)));
    low_x = from_x;
    low_y = from_y;
    per_width = static_cast<float>(columns) / width;
    per_height = static_cast<float>(rows) / height;
  }

 private:
  METHOD int cell(int row, int column) const { return row * columns + (row % 2 == 0 ? column : columns - 1 - column); }

  METHOD static int index(float at, float low, float per_length, int count) {
    const float from_low = portable::at_least((at - low) * per_length, 0.0f);
    return static_cast<int>(portable::at_most(from_low, static_cast<float>(count - 1)));
  }
};

// Whether coordinates are finite: nobody else finds or is found.
METHOD bool is_somewhere(float x, float y) { return (x - x == 0.0f) & (y - y == 0.0f); }

// Whether those of agent j are.
template <class Search>
METHOD bool is_somewhere(const Search& search, int j) {
  return is_somewhere(search.x[j], search.y[j]);
}

// Nobody at a squared distance up to this is farther off, whatever was rounded.
METHOD float radius(float squared) { return Math::sqrt(squared) * 1.00001f + 1e-22f; }
